"""The datasets a config names: their files, their media columns, and what stands in the way of reading them.

Covers ``dataset_info.json`` (or the table given as ``dataset_dir``) and folders of tokenised data. It resolves names
to files; `rows` reads them. Nothing is fetched: a dataset that lives on a hub has columns at best.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .facts import Modality
from .rows import FILE_TYPES

COLUMNS = {Modality.IMAGE: "images", Modality.VIDEO: "videos", Modality.AUDIO: "audios"}
"""LLaMA-Factory's names for the media columns, in ``dataset_info.json`` and in tokenised data."""


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """One dataset of a config.

    Attributes:
        name: Its name in the config.
        columns: The column that holds each kind of media; ``None`` where nothing says which there are.
        files: Its files on this machine; empty where it has none.
        samples: ``num_samples`` of its entry: rows are drawn until there are that many.
        sliced: Whether its ``split`` takes a part of the rows only.
        note: Why it cannot be read here, as one sentence; ``None`` if it can.
    """

    name: str
    columns: Mapping[Modality, str] | None
    files: tuple[Path, ...] = ()
    samples: int | None = None
    sliced: bool = False
    note: str | None = None


def find_datasets(names: Sequence[str], dataset_dir: str | Mapping[str, Any]) -> tuple[DatasetSource, ...]:
    """Return what is known here of the datasets ``names``.

    Args:
        names: As in ``dataset`` or ``eval_dataset``.
        dataset_dir: A folder with ``dataset_info.json``, that file's contents, ``ONLINE``, or ``REMOTE:repository``.
    """
    table, problem = _table(dataset_dir)
    folder = Path(dataset_dir) if isinstance(dataset_dir, str) else Path()
    return tuple(_source(name, table, folder, problem) for name in names)


def _table(dataset_dir: str | Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str]:
    if isinstance(dataset_dir, Mapping):
        return dataset_dir, ""
    if dataset_dir == "ONLINE" or dataset_dir.startswith("REMOTE:"):
        return None, f"dataset_dir is {dataset_dir}, and nothing is downloaded to look at it"
    path = Path(dataset_dir) / "dataset_info.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return None, f"{path} cannot be read ({error.strerror})"
    except ValueError as error:
        return None, f"{path} is not valid JSON ({error})"
    return (table, "") if isinstance(table, dict) else (None, f"{path} holds no table of datasets")


def _source(name: str, table: Mapping[str, Any] | None, folder: Path, problem: str) -> DatasetSource:
    if table is None:
        return DatasetSource(name, None, note=f"Dataset {name} was not looked at: {problem}.")
    entry = table.get(name)
    if not isinstance(entry, Mapping):
        return DatasetSource(name, None, note=f"Dataset {name} has no entry in dataset_info.json.")
    declared = entry.get("columns")
    declared = declared if isinstance(declared, Mapping) else {}
    columns = {kind: str(declared[key]) for kind, key in COLUMNS.items() if declared.get(key)}
    files, note = _files(name, entry, folder)
    samples = entry.get("num_samples")
    return DatasetSource(
        name,
        columns,
        files,
        samples=samples if isinstance(samples, int) and not isinstance(samples, bool) and samples > 0 else None,
        sliced="[" in str(entry.get("split") or ""),
        note=note,
    )


def _files(name: str, entry: Mapping[str, Any], folder: Path) -> tuple[tuple[Path, ...], str | None]:
    for key in ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"):
        if entry.get(key):
            return (), f"Dataset {name} is no file on this machine ({key}: {entry[key]}); its rows were not looked at."
    if not entry.get("file_name"):
        return (), f"Dataset {name} names no file_name in dataset_info.json."
    path = folder / str(entry["file_name"])
    try:
        files = tuple(sorted(path.iterdir())) if path.is_dir() else (path,) if path.is_file() else ()
    except OSError as error:
        return (), f"Dataset {name}: {path} cannot be read ({error.strerror})."
    if not files:
        return (), f"Dataset {name}: {path} does not exist or is empty."
    if any(FILE_TYPES.get(file.suffix[1:]) is None for file in files):
        return (), f"Dataset {name}: {path} is, or holds, none of {', '.join(sorted(FILE_TYPES))}."
    return files, None


def tokenized_dataset(folder: Path, split: str) -> DatasetSource | None:
    """Return the split ``train`` or ``validation`` of a dataset that LLaMA-Factory tokenised and saved in ``folder``.

    Returns:
        ``None`` where the folder has no such split.
    """
    root = folder / split
    if split == "train" and (folder / "state.json").is_file():
        root = folder
    files = tuple(sorted(root.glob("*.arrow")))
    if not files:
        return None
    try:
        features = json.loads((root / "dataset_info.json").read_text(encoding="utf-8"))["features"]
        columns = {kind: key for kind, key in COLUMNS.items() if _holds_something(features.get(key))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return DatasetSource(str(root), None, files)
    return DatasetSource(str(root), columns, files)


def _holds_something(feature: Any) -> bool:
    # LLaMA-Factory saves all three media columns; one that no row fills has the type null, alone or in a list.
    return feature is not None and '"null"' not in json.dumps(feature)
