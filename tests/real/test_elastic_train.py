"""Real trainings with workers killed from outside and resized in the middle lose exactly what 0 workers lose.

Same loss and gradient norm at every step, to the last digit of ``trainer_state.json``.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.lab import WORKER_NAME, Lab, Outcome

pytestmark = pytest.mark.real

COUNT: dict[str, Any] = {
    "LF_AUTOWORKERS_DATALOADER_NUM_WORKERS": "2",
    "LF_AUTOWORKERS_GUARD": "off",
    "LF_AUTOWORKERS_HISTORY": "off",
}


def config(lab: Lab, workers: int | str, output: str, **changes: Any) -> Path:
    """Return three epochs of images, LoRA with dropout, 6 steps each."""
    return lab.config(
        "image",
        dataloader_num_workers=workers,
        preprocessing_num_workers=None,
        output_dir=str(lab.scratch / output),
        max_steps=None,
        num_train_epochs=3.0,
        max_samples=24,
        per_device_train_batch_size=4,
        image_max_pixels=16384,
        finetuning_type="lora",
        lora_target="all",
        lora_dropout=0.1,
        **{"save_strategy": "steps", "save_steps": 8, **changes},
    )


def history(lab: Lab, output: str) -> list[tuple[int, float, float]]:
    """Return step, loss and gradient norm of every step, all digits."""
    state = json.loads((lab.scratch / output / "trainer_state.json").read_text())
    return [(entry["step"], entry["loss"], entry["grad_norm"]) for entry in state["log_history"] if "loss" in entry]


STEPS_APART = 3
"""Steps between two kills: the batch that was lost has been made by then (three kills end the run)."""


@contextlib.contextmanager
def killer(output: Path, most: int) -> Iterator[list[int]]:
    """SIGKILL a loader worker of the training that writes to ``output`` every few steps; gives the list of victims."""
    victims: list[int] = []
    done = threading.Event()
    rng = random.Random(1)

    def workers() -> list[psutil.Process]:
        found = []
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(OSError, psutil.Error):
                if Path(f"/proc/{child.pid}/comm").read_text().strip() == WORKER_NAME and child.pid not in victims:
                    found.append(child)
        return found

    def steps() -> int:
        log = output / "trainer_log.jsonl"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def hunt() -> None:
        due = 0
        while not done.wait(0.01) and len(victims) < most:
            if steps() >= due and (there := workers()):
                victim = rng.choice(there)
                with contextlib.suppress(psutil.Error):
                    victim.kill()
                    victims.append(victim.pid)
                    due = steps() + STEPS_APART

    thread = threading.Thread(target=hunt)
    thread.start()
    try:
        yield victims
    finally:
        done.set()
        thread.join()


def survived(outcome: Outcome, victims: list[int]) -> None:
    """The run ended well and told of every victim with one line."""
    assert outcome.code == 0, outcome.text[-4000:]
    told = [int(pid) for pid in re.findall(r"dataloader worker \d+ \(pid (\d+)\) was killed by SIGKILL", outcome.text)]
    assert len(told) == len(set(told))
    # One that is killed while it leaves holds nothing and is no loss.
    assert set(told) <= set(victims) and len(told) >= len(victims) - 2


def test_kills_resizes_and_a_resume_change_no_digit(lab: Lab) -> None:
    assert lab.train(config(lab, 0, "plain")).code == 0
    wanted = history(lab, "plain")
    assert len(wanted) == 18

    schedule = "3=4 5=1 6=0 8=3 12=2 15=0 17=2"
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "tests.real.elastic_entry",
        schedule,
        "train",
        config(lab, "auto", "disturbed"),
    ]
    with killer(lab.scratch / "disturbed", most=6) as victims:
        outcome = lab.run(command, **COUNT, PYTHONPATH=str(Path(__file__).parents[2]))
    survived(outcome, victims)
    assert len(victims) >= 2
    assert "delivered=18 " in outcome.text
    assert history(lab, "disturbed") == wanted

    shutil.copytree(lab.scratch / "plain" / "checkpoint-8", lab.scratch / "resumed" / "checkpoint-8")
    again = config(
        lab,
        "auto",
        "resumed",
        overwrite_output_dir=False,
        resume_from_checkpoint=str(lab.scratch / "resumed" / "checkpoint-8"),
    )
    with killer(lab.scratch / "resumed", most=2) as victims:
        outcome = lab.train(again, **{**COUNT, "LF_AUTOWORKERS_DATALOADER_NUM_WORKERS": "3"})
    survived(outcome, victims)
    assert history(lab, "resumed") == wanted


def test_a_worker_of_one_rank_is_killed_under_torchrun(lab: Lab) -> None:
    ranks: dict[str, Any] = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
    changes: dict[str, Any] = {"save_strategy": "no", "ddp_find_unused_parameters": False}
    plain = lab.train(config(lab, 0, "plain", **changes), MASTER_PORT="29631", **ranks)
    assert plain.code == 0, plain.text[-4000:]
    with killer(lab.scratch / "killed", most=2) as victims:
        outcome = lab.train(config(lab, "auto", "killed", **changes), MASTER_PORT="29632", **ranks, **COUNT)
    survived(outcome, victims)
    assert victims
    assert history(lab, "killed") == history(lab, "plain")
    assert len(history(lab, "plain")) == 9
