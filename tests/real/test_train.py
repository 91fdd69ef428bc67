"""The real ``llamafactory-cli train`` with ``auto``/``auto``: the numbers logged are the workers that live."""

from __future__ import annotations

import json
from pathlib import Path
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


RANKS = """
import json, os, sys
from llamafactory.hparams import get_train_args
parsed = get_train_args(json.load(open(sys.argv[1])))
counts = [parsed[2].dataloader_num_workers, parsed[1].preprocessing_num_workers]
open(sys.argv[2] + os.environ["RANK"], "w").write(json.dumps(counts))
"""


def test_every_rank_is_given_the_same_numbers(lab: Lab) -> None:
    (lab.scratch / "ranks.py").write_text(RANKS)
    (lab.scratch / "values.json").write_text(json.dumps(lab.values("image", per_device_train_batch_size=8)))
    told = lab.scratch / "rank"
    command: list[str | Path] = [
        "torchrun",
        "--nproc-per-node",
        "2",
        "--master-port",
        "29613",
        lab.scratch / "ranks.py",
    ]
    outcome = lab.run([*command, lab.scratch / "values.json", told], 240, LF_AUTOWORKERS_CPUS="8")
    assert outcome.code == 0, outcome.text[-3000:]
    first, second = (json.loads(Path(f"{told}{rank}").read_text()) for rank in (0, 1))
    assert first == second
    assert len(outcome.lines("dataloader_num_workers")) == 1


def test_export_takes_a_config_that_says_auto(lab: Lab) -> None:
    config = lab.scratch / "export.yaml"
    model = lab.folder / "text-model"
    config.write_text(
        f"model_name_or_path: {model}\ntemplate: qwen\nexport_dir: {lab.scratch / 'out'}\nexport_device: cpu\n"
        "preprocessing_num_workers: auto\n"
    )
    outcome = lab.run(["llamafactory-cli", "export", config])
    assert outcome.code == 0, outcome.text[-3000:]
    assert list((lab.scratch / "out").glob("*.safetensors"))


def test_two_ranks_under_torchrun_share_the_node_and_agree(lab: Lab) -> None:
    outcome = lab.train(
        lab.config("image"), FORCE_TORCHRUN="1", NPROC_PER_NODE="2", MASTER_PORT="29611", LF_AUTOWORKERS_CPUS="8"
    )
    assert_trained(outcome, ranks=2)
    assert " cpu=3 " in outcome.lines("dataloader_num_workers")[0]  # 8 / 2 ranks - 1 for the trainer
