"""A container's /dev/shm of 1 MiB: batches of 20 MB go through all the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os
from torch.utils.data import DataLoader
from lf_autoworkers.elastic import elastic
from tests.unit.elastic.rows import Big
assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 1 << 20
loader = DataLoader(Big(12, floats=2_500_000), batch_size=2, num_workers=2)  # default_collate, the likeliest to use it
with elastic(loader) as run:
    print([int(batch[1, 5]) for batch in loader], run.stats().lost_workers, run.stats().unsent_batches)
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root to mount a /dev/shm")
def test_batches_larger_than_shared_memory(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    mount = 'mount -t tmpfs -o size=1m none /dev/shm && exec timeout 120 "$0" -W ignore "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare failed" in done.stderr or "permission denied" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    assert done.stdout == "[1, 3, 5, 7, 9, 11] 0 0\n", done.stderr
