"""LLaMA-Factory itself on Docker's 64 MB of /dev/shm, with image batches of 29 MB: ``auto`` and a forced 4 finish.

That PyTorch's own loader hangs there is shown by `guard_scenarios.small_shm`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.lab import Lab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="needs root and unshare(1)"),
]

SMALL = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "sh"]


@pytest.mark.parametrize("forced", [None, "4"])
def test_a_training_on_64_mb_of_shared_memory(lab: Lab, forced: str | None) -> None:
    config = lab.config("image", image_max_pixels=None, per_device_train_batch_size=4, max_steps=6)
    command: list[str | Path] = [*SMALL, "llamafactory-cli", "train", config]
    outcome = lab.run(command, LF_AUTOWORKERS_CPUS="8", LF_AUTOWORKERS_DATALOADER_NUM_WORKERS=forced)
    assert outcome.code == 0, outcome.text[-3000:]
    assert len(outcome.losses) == 6
    assert "Bus error" not in outcome.text
    (line,) = outcome.lines("dataloader_num_workers")
    if forced is None:
        assert " <- shm: 60% of 64.0 MiB free in /dev/shm" in line
        assert "--shm-size" in outcome.text
