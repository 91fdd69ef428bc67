"""Resolving dataset names to files and media columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lf_autoworkers.workload.dataset import find_datasets, tokenized_dataset
from lf_autoworkers.workload.facts import Modality


def write_table(folder: Path, table: Any) -> None:
    (folder / "dataset_info.json").write_text(table if isinstance(table, str) else json.dumps(table))


def test_a_local_file_with_media_columns(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    columns = {"messages": "m", "images": "pictures", "audios": None}
    write_table(tmp_path, {"a": {"file_name": "a.json", "columns": columns, "num_samples": 5, "split": "train[:9]"}})
    (source,) = find_datasets(["a"], str(tmp_path))
    assert source.columns == {Modality.IMAGE: "pictures"}
    assert (source.files, source.samples, source.sliced, source.note) == ((tmp_path / "a.json",), 5, True, None)


def test_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for name in ("2.jsonl", "1.jsonl"):
        (tmp_path / "shards" / name).write_text("{}")
    write_table(tmp_path, {"a": {"file_name": "shards"}})
    (source,) = find_datasets(["a"], str(tmp_path))
    assert [file.name for file in source.files] == ["1.jsonl", "2.jsonl"]
    assert source.columns == {}


@pytest.mark.parametrize(
    "entry",
    [
        {"hf_hub_url": "someone/something"},
        {"ms_hub_url": "someone/something"},
        {"om_hub_url": "someone/something"},
        {"script_url": "script"},
        {"cloud_file_name": "s3://bucket/a.json"},
        {"file_name": "missing.json"},
        {"file_name": "notes.docx"},
        {},
    ],
)
def test_what_cannot_be_read_here_keeps_its_columns_and_a_note(tmp_path: Path, entry: dict[str, Any]) -> None:
    (tmp_path / "notes.docx").write_text("")
    write_table(tmp_path, {"a": {**entry, "columns": {"videos": "clips"}}})
    (source,) = find_datasets(["a"], str(tmp_path))
    assert source.columns == {Modality.VIDEO: "clips"}
    assert source.files == () and source.note is not None and source.note.startswith("Dataset a")


@pytest.mark.parametrize("table", ["{", "[]", "null", {"b": {}}, {"a": "text"}, None])
def test_a_table_that_does_not_know_the_dataset_leaves_its_columns_open(tmp_path: Path, table: Any) -> None:
    if table is not None:
        write_table(tmp_path, table)
    (source,) = find_datasets(["a"], str(tmp_path))
    assert source.columns is None and source.note is not None


@pytest.mark.parametrize("place", ["ONLINE", "REMOTE:someone/tables"])
def test_nothing_is_downloaded(place: str) -> None:
    (source,) = find_datasets(["a"], place)
    assert source.columns is None and source.note is not None and place in source.note


def test_the_table_itself_may_be_given(tmp_path: Path) -> None:
    table = {"a": {"hf_hub_url": "someone/something", "columns": {"images": "image"}}}
    (source,) = find_datasets(["a"], table)
    assert source.columns == {Modality.IMAGE: "image"}


@pytest.mark.parametrize("columns", [None, "text", ["images"], {"images": ""}])
def test_odd_columns_are_no_media(tmp_path: Path, columns: Any) -> None:
    (source,) = find_datasets(["a"], {"a": {"hf_hub_url": "x/y", "columns": columns}})
    assert source.columns == {}


def save_tokenized(root: Path, *, split: bool) -> None:
    """Save as LLaMA-Factory does: all three media columns, null where no row fills them."""
    datasets = pytest.importorskip("datasets")
    train = datasets.Dataset.from_list(
        [{"input_ids": [1, 2, 3], "images": ["a.jpg"], "videos": None, "audios": None} for _ in range(4)]
    )
    (datasets.DatasetDict({"train": train, "validation": train.select([0])}) if split else train).save_to_disk(root)


@pytest.mark.parametrize("split", [True, False])
def test_a_tokenised_dataset_tells_its_media_by_its_features(
    tmp_path: Path, split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # Else its monitor thread stays behind.
    save_tokenized(tmp_path / "saved", split=split)
    train = tokenized_dataset(tmp_path / "saved", "train")
    assert train is not None and train.columns == {Modality.IMAGE: "images"} and len(train.files) == 1
    assert (tokenized_dataset(tmp_path / "saved", "validation") is not None) is split


def test_a_folder_without_saved_data_is_none(tmp_path: Path) -> None:
    assert tokenized_dataset(tmp_path, "train") is None
    assert tokenized_dataset(tmp_path / "nowhere", "train") is None


def test_saved_data_with_a_broken_description_has_unknown_columns(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "data-0.arrow").write_bytes(b"")
    (tmp_path / "dataset_info.json").write_text("[]")
    train = tokenized_dataset(tmp_path, "train")
    assert train is not None and train.columns is None
