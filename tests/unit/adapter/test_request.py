"""What a config asks of the plan, in LLaMA-Factory's own words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lf_autoworkers.adapter.request import in_v0_words, make_request
from lf_autoworkers.plan import Request
from lf_autoworkers.settings import Settings

LOADER, PREPROCESSING = "dataloader_num_workers", "preprocessing_num_workers"
TRAIN = {LOADER, PREPROCESSING, "dataloader_prefetch_factor", "dataloader_persistent_workers"}


def request(arguments: dict[str, Any], owned: set[str] = TRAIN, **settings: Any) -> Request:
    autos = {name: "auto" for name, value in arguments.items() if value == "auto"}
    return make_request(arguments, autos, owned, Settings(**settings))


def test_only_what_the_command_knows_is_decided() -> None:
    both = {LOADER: "auto", PREPROCESSING: "auto"}
    assert request(both).loader_field == LOADER
    export = request(both, {PREPROCESSING})
    assert (export.loader_field, export.preprocessing, export.trains) == (None, True, False)
    assert request({"batching_workers": "auto"}, {"batching_workers"}).loader_field == "batching_workers"


@pytest.mark.parametrize(
    ("config", "dispatches"),
    [
        (None, True),
        ({"dispatch_batches": False}, False),
        ({"dispatch_batches": None}, True),
        ('{"dispatch_batches": false}', False),
        ("broken {", True),
    ],
)
def test_a_stream_is_dispatched_unless_accelerate_is_told_otherwise(config: object, dispatches: bool) -> None:
    arguments = {LOADER: "auto", "streaming": "true"} | ({} if config is None else {"accelerator_config": config})
    assert request(arguments).dispatches_batches is dispatches
    assert request({**arguments, "streaming": False}).dispatches_batches is False


def test_accelerates_config_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "accelerate.json"
    path.write_text(json.dumps({"dispatch_batches": False}))
    found = request({LOADER: "auto", "streaming": True, "accelerator_config": str(path)})
    assert found.dispatches_batches is False


def test_only_a_guard_that_acts_counts() -> None:
    assert request({LOADER: "auto"}).guarded
    assert not request({LOADER: "auto"}, guard="observe").guarded
    assert not request({LOADER: "auto"}, guard="off").guarded


def test_the_users_loader_arguments_are_seen() -> None:
    found = request({LOADER: "auto", "dataloader_prefetch_factor": "3", "dataloader_persistent_workers": "true"})
    assert (found.prefetch_factor, found.persistent_workers) == (3, True)
    left = request({LOADER: "auto"})
    assert (left.prefetch_factor, left.persistent_workers, left.sets_prefetch) == (None, None, True)


def test_a_tokenized_dataset_needs_no_preprocessing(tmp_path: Path) -> None:
    arguments = {PREPROCESSING: "auto", "tokenized_path": str(tmp_path)}
    assert request(arguments).tokenized is False
    (tmp_path / "dataset_dict.json").touch()
    assert request(arguments).tokenized is True


def test_settings_reach_the_request() -> None:
    found = request({LOADER: "auto"}, dataloader_num_workers=3, preprocessing_num_workers=2, elastic=False)
    assert (found.forced_loader, found.forced_preprocessing, found.elastic) == (3, 2, False)


def test_v1_configs_are_told_in_v0_words() -> None:
    assert in_v0_words({"batching_workers": "auto", "model": "m"}) == {
        "batching_workers": "auto",
        "model_name_or_path": "m",
        "per_device_train_batch_size": 1,
    }
    v0 = {LOADER: "auto", "model": "m"}
    assert in_v0_words(v0) is v0
