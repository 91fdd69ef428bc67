"""The real ``llamafactory-cli train`` with ``auto``/``auto``: the numbers logged are the workers that live."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab import Lab, Outcome

pytestmark = pytest.mark.real

CPUS = "4"  # four, so that the logged number is not just the machine's


def assert_trained(outcome: Outcome, ranks: int = 1) -> None:
    """The run ended well, said each value once, and had as many workers as it said."""
    assert outcome.code == 0, outcome.text[-4000:]
    assert len(outcome.lines("dataloader_num_workers")) == 1
    assert len(outcome.lines("preprocessing_num_workers")) == 1
    said = outcome.decided["dataloader_num_workers"]
    assert said is not None and said >= 1
    assert list(outcome.most_workers.values()) == [said] * ranks


@pytest.mark.parametrize(
    ("dataset", "changes"),
    [
        ("text", {}),
        ("image", {"per_device_train_batch_size": 8, "image_max_pixels": 262144}),
        ("video", {"max_steps": 3, "video_maxlen": 8}),
        ("text,image", {"max_steps": 8, "model_name_or_path": "vision", "template": "qwen2_vl"}),
        ("text", {"finetuning_type": "lora", "lora_target": "all"}),
        ("text", {"streaming": True, "preprocessing_num_workers": "auto"}),
        ("image", {"streaming": True, "buffer_size": 8, "accelerator_config": {"dispatch_batches": False}}),
        ("pairs", {"stage": "dpo", "pref_loss": "sigmoid", "finetuning_type": "lora", "lora_target": "all"}),
    ],
    ids=["text", "image", "video", "mixed", "lora", "streaming-text", "streaming-image", "dpo"],
)
def test_trains_with_the_workers_it_logged(lab: Lab, dataset: str, changes: dict[str, Any]) -> None:
    if changes.get("model_name_or_path") == "vision":
        changes = {**changes, "model_name_or_path": str(lab.folder / "vision-model")}
    assert_trained(lab.train(lab.config(dataset, **changes), LF_AUTOWORKERS_CPUS=CPUS))


def test_a_resumed_stream_keeps_the_count_its_order_depends_on(lab: Lab) -> None:
    changes: dict[str, Any] = {
        "streaming": True,
        "overwrite_output_dir": None,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    first = lab.train(lab.config("text", **changes, max_steps=2), LF_AUTOWORKERS_DATALOADER_NUM_WORKERS="3")
    assert first.code == 0, first.text[-3000:]
    resumed = lab.train(lab.config("text", **changes, max_steps=4), LF_AUTOWORKERS_CPUS=CPUS)
    assert resumed.code == 0, resumed.text[-3000:]
    (line,) = resumed.lines("dataloader_num_workers")
    assert line.startswith("dataloader_num_workers: auto -> 3 per rank <- checkpoint: ")
    assert resumed.most_workers and set(resumed.most_workers.values()) == {3}


def test_two_ranks_under_torchrun_share_the_node_and_agree(lab: Lab) -> None:
    outcome = lab.train(
        lab.config("image"), FORCE_TORCHRUN="1", NPROC_PER_NODE="2", MASTER_PORT="29611", LF_AUTOWORKERS_CPUS="8"
    )
    assert_trained(outcome, ranks=2)
    assert " cpu=3 " in outcome.lines("dataloader_num_workers")[0]  # 8 / 2 ranks - 1 for the trainer
