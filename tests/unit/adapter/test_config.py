"""Configs from files, overrides and argument lists."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lf_autoworkers.adapter.config import (
    arguments_of,
    auto_fields,
    is_auto,
    is_on,
    named_argument,
    read_config,
    replace_in_tokens,
    whole_number,
)
from lf_autoworkers.errors import ConfigError

OPTIONS = {
    "--dataloader_num_workers": "dataloader_num_workers",
    "--dataloader-num-workers": "dataloader_num_workers",
    "--preprocessing_num_workers": "preprocessing_num_workers",
    "--dataset": "dataset",
    "--dataset_dir": "dataset_dir",
}


def test_yaml_json_and_overrides_are_read_alike(tmp_path: Path) -> None:
    yaml, json = tmp_path / "a.yaml", tmp_path / "a.json"
    yaml.write_text("dataloader_num_workers: auto\nper_device_train_batch_size: 2\n")
    json.write_text('{"dataloader_num_workers": "auto", "per_device_train_batch_size": 2}')
    expected = {"dataloader_num_workers": "auto", "per_device_train_batch_size": 4}
    assert read_config(yaml, ["per_device_train_batch_size=4"]) == expected
    assert read_config(json, ["per_device_train_batch_size=4"]) == expected


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("missing.yaml", None, "There is no config file"),
        ("list.yaml", "- a\n", "holds no mapping"),
        ("broken.yaml", "a: [", "cannot be read as a config"),
        ("broken.json", "{", "cannot be read as a config"),
        ("binary.yaml", b"\xff\xfe\x00", "cannot be read as a config"),
        ("reference.yaml", "a: ${nowhere}\n", "cannot be read as a config"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, name: str, text: str | bytes | None, sentence: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError, match=sentence) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)


def test_a_folder_and_an_override_without_a_value_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path)
    with pytest.raises(ConfigError, match="write key=value"):
        read_config(tmp_path / "a.yaml", ["streaming"])


@pytest.mark.parametrize("word", ["auto", "AUTO", " Auto\n"])
def test_auto_in_any_case_and_blanks(word: str) -> None:
    assert is_auto(word)
    assert auto_fields({"dataloader_num_workers": word}) == {"dataloader_num_workers": word}


@pytest.mark.parametrize("value", [0, 4, "4", None, "", "null"])
def test_numbers_are_no_auto(value: object) -> None:
    assert auto_fields({"dataloader_num_workers": value}) == {}


@pytest.mark.parametrize("word", ["atuo", "automatic", "4.5", "four", "-", ["auto"]])
def test_other_words_stop_with_the_key(word: object) -> None:
    with pytest.raises(
        ConfigError, match=r"preprocessing_num_workers: .* is no worker count; write auto or a whole number"
    ):
        auto_fields({"preprocessing_num_workers": word})


@pytest.mark.parametrize(
    ("value", "number"), [("4", 4), (" -1 ", -1), ("+4", 4), ("1_6", 16), ("1-2", None), (True, None), (2.0, None)]
)
def test_whole_numbers(value: object, number: int | None) -> None:
    assert whole_number(value) == number


def test_argument_lists_become_dicts() -> None:
    tokens = ["--a-b", "1", "--c=2", "--flag", "--many", "x", "y", "--a_b", "3"]
    assert arguments_of(tokens) == {"a_b": "3", "c": "2", "flag": True, "many": ["x", "y"]}


def test_tokens_are_replaced_wherever_and_however_they_stand() -> None:
    tokens = [
        "--dataset",
        "a",
        "--dataloader-num-workers",
        "auto",
        "--preprocessing_num_workers=auto",
        "--dataset_dir",
        "d",
    ]
    values = {"dataloader_num_workers": 3, "preprocessing_num_workers": None}
    assert replace_in_tokens(tokens, OPTIONS, values) == [
        "--dataset",
        "a",
        "--dataset_dir",
        "d",
        "--dataloader_num_workers",
        "3",
    ]


def test_abbreviations_mean_what_argparse_takes_them_for() -> None:
    assert named_argument("--dataloader_num_w=auto", OPTIONS) == "dataloader_num_workers"
    assert named_argument("--dataset", OPTIONS) == "dataset"
    assert named_argument("--data", OPTIONS) is None


@given(st.lists(st.text(max_size=12), max_size=12))
def test_no_argument_list_breaks_the_reading(tokens: list[str]) -> None:
    arguments_of(tokens)
    kept = replace_in_tokens(tokens, OPTIONS, {})
    assert kept == tokens


@pytest.mark.parametrize(
    ("value", "on"),
    [(True, True), (1, True), ("True", True), ("1", True), (0, False), ("no", False), (2, False), (None, False)],
)
def test_switches_in_yaml_and_on_the_command_line(value: object, on: bool) -> None:
    assert is_on(value) is on
