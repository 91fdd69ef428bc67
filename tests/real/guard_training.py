"""The real ``llamafactory-cli train`` on image data in memory boxes: fixed counts, ``auto``, and a forced count.

Used by test_guard_train.py (once) and by benchmarks/guard_matrix.py (repeated). Limits come from peaks measured here.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass

from lf_autoworkers.demo import write_config, write_image_dataset
from lf_autoworkers.journal import JOURNAL_NAME, read_journal
from tests.lab import BIN, Lab

from .boxes import BoxedRun, run_boxed
from .guard_scenarios import acts_text

STEPS = 12


@dataclass
class Trained:
    """A finished training.

    Attributes:
        losses: The loss of every step, to the last digit.
        train_s: The trainer's own runtime, start-up not counted; ``None`` if it did not finish.
    """

    run: BoxedRun
    losses: list[str]
    train_s: float | None
    acts: str
    most_workers: int

    @property
    def finished(self) -> bool:
        """Whether every step was done and the kernel killed nobody."""
        return self.run.code == 0 and len(self.losses) == STEPS and self.run.oom_kills == 0


class Training:
    """A vision model, heavy images, and the peaks of the fixed counts on this machine."""

    def __init__(self, lab: Lab, steps: int = STEPS) -> None:
        self._lab = lab
        self._steps = steps
        self._data = lab.scratch / "heavy"
        self._data.mkdir()
        info = {"heavy_image": write_image_dataset(self._data, 48, ((1600, 1200), (1920, 1080)))}
        (self._data / "dataset_info.json").write_text(json.dumps(info))

    def train(
        self, workers: int | str, limit_bytes: int | None, *, forced: int | None = None, on_parent: bool = False
    ) -> Trained:
        """Train once.

        Args:
            workers: What the config says; ``auto`` or a number.
            limit_bytes: Of the box; ``None`` for no limit.
            forced: ``LF_AUTOWORKERS_DATALOADER_NUM_WORKERS``.
            on_parent: Whether the limit is on the parent of the process's own cgroup.
        """
        scratch = self._lab.scratch / uuid.uuid4().hex[:8]
        scratch.mkdir()
        values = self._lab.values(
            "heavy_image",
            dataset_dir=str(self._data),
            media_dir=str(self._data),
            image_max_pixels=589824,
            cutoff_len=4096,
            per_device_train_batch_size=4,
            max_steps=self._steps,
            output_dir=str(scratch / "output"),
            overwrite_cache=True,
            preprocessing_num_workers=1,
            dataloader_num_workers=workers,
        )
        write_config(scratch / "config.yaml", values)
        environ = self._lab.environ(
            OMP_NUM_THREADS="1",
            LF_AUTOWORKERS_HISTORY="off",
            LF_AUTOWORKERS_DATALOADER_NUM_WORKERS=None if forced is None else str(forced),
        )
        run = run_boxed(
            [str(BIN / "llamafactory-cli"), "train", str(scratch / "config.yaml")],
            limit_bytes=limit_bytes,
            on_parent=on_parent,
            cwd=scratch,
            environ=environ,
            timeout_s=400,
        )
        journal = scratch / "output" / JOURNAL_NAME
        events = [dict(event) for event in read_journal(journal)] if journal.exists() else []
        runtime = re.search(r"'train_runtime': '?([0-9.]+)", run.text)
        return Trained(
            run=run,
            losses=re.findall(r"'loss': '?([0-9.]+)", run.text),
            train_s=None if runtime is None else float(runtime[1]),
            acts=acts_text(events),
            most_workers=max([1, *(int(event["to"]) for event in events if event["event"] == "resize")]),
        )


def limits_between(few: Trained, many: Trained, *shares: float) -> list[int]:
    """Return limits that lie at these shares of the way from one peak to another."""
    low, high = few.run.peak_bytes, many.run.peak_bytes
    return [int(low + share * (high - low)) for share in shares]
