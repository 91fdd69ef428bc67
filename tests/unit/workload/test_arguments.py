"""Reading a raw training config: YAML types, command line strings, LLaMA-Factory's defaults, nonsense."""

from __future__ import annotations

from typing import Any

import pytest

from lf_autoworkers.workload.arguments import read_arguments


def test_an_empty_config_means_llamafactorys_defaults() -> None:
    run = read_arguments({})
    assert (run.stage, run.dataset_dir, run.cutoff_len, run.train_batch_size, run.eval_batch_size) == (
        *("sft", "data", 2048),
        *(8, 8),
    )
    assert (run.image_max_pixels, run.video_max_pixels, run.video_fps, run.video_maxlen) == (589824, 65536, 2.0, 128)
    assert (run.datasets, run.streaming, run.packing, run.evaluates, run.float_bytes) == ((), False, False, False, 4)
    assert run.notes == ()


@pytest.mark.parametrize("value", [2, "2", " 2 ", 2.0, "2.0"])
def test_a_number_may_be_text(value: Any) -> None:
    assert read_arguments({"per_device_train_batch_size": value}).train_batch_size == 2


@pytest.mark.parametrize("value", [True, "true", "True", "yes", "1", 1])
def test_a_flag_may_be_text(value: Any) -> None:
    assert read_arguments({"streaming": value}).streaming


@pytest.mark.parametrize("value", ["a,b", " a , b ", ["a", "b"], ("a", "b"), "a,b,"])
def test_names_come_as_text_or_list(value: Any) -> None:
    assert read_arguments({"dataset": value}).datasets == ("a", "b")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cutoff_len", "long"),
        ("cutoff_len", -1),
        ("cutoff_len", "nan"),
        ("cutoff_len", True),
        ("streaming", "maybe"),
        ("dataset", 7),
        ("val_size", "inf"),
    ],
)
def test_nonsense_becomes_the_default_and_a_note(key: str, value: Any) -> None:
    run, default = read_arguments({key: value}), read_arguments({})
    assert len(run.notes) == 1 and run.notes[0].startswith(f"{key}: ")
    assert (run.cutoff_len, run.streaming, run.datasets) == (default.cutoff_len, default.streaming, default.datasets)


@pytest.mark.parametrize(
    ("config", "evaluates"),
    [
        ({"eval_strategy": "steps"}, True),
        ({"evaluation_strategy": "epoch"}, True),
        ({"eval_strategy": "no"}, False),
        ({"eval_strategy": False}, False),
        ({"do_eval": "true"}, True),
        ({"do_predict": True}, True),
        ({"eval_dataset": "held_out"}, False),
        ({"val_size": 0.1}, False),
        ({"val_size": 0.1, "eval_strategy": "steps"}, True),
    ],
)
def test_evaluation_is_asked_for_by_strategy_or_command(config: dict[str, Any], evaluates: bool) -> None:
    assert read_arguments(config).evaluates is evaluates


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"bf16": True}, 2),
        ({"fp16": "true"}, 2),
        ({"pure_bf16": True}, 2),
        ({"bf16": False}, 4),
        ({"bf16": True, "stage": "dpo"}, 4),
    ],
)
def test_only_the_sft_collator_casts_to_the_compute_dtype(config: dict[str, Any], size: int) -> None:
    assert read_arguments(config).float_bytes == size


@pytest.mark.parametrize(
    ("config", "packing"),
    [
        ({"stage": "pt"}, True),
        ({"stage": "pt", "packing": False}, False),
        ({"packing": True}, True),
        ({"neat_packing": True}, True),
        ({"packing": True, "stage": "dpo"}, False),
    ],
)
def test_packing_belongs_to_sft_and_is_pretrainings_default(config: dict[str, Any], packing: bool) -> None:
    assert read_arguments(config).packing is packing
