"""However the main process ends, no worker outlives it, nothing stays in /dev/shm, and nobody but it complains."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).parents[3]
CODES = {"end": 0, "sys.exit": 3, "exception": 1, "os._exit": 4, "sigterm": -15, "sigkill": -9, "interrupt": -2}
#: Under fork a worker sees the end of its socket at once; elsewhere a relative may hold it, then the 2 s look helps.
GONE_S = {"fork": 5.0, "spawn": 10.0, "forkserver": 10.0}


def ends(way: str, context: str, persistent: str = "once") -> None:
    before = {path.name for path in Path("/dev/shm").iterdir()}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.unit.elastic.exit_program", way, context, persistent],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
    assert process.returncode == CODES[way], err
    main, *workers = [int(word) for word in out.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + GONE_S[context]
    while alive := [pid for pid in workers if psutil.pid_exists(pid)]:
        assert time.monotonic() < deadline, f"workers {alive} outlive their trainer after {way}"
        time.sleep(0.01)
    assert {path.name for path in Path("/dev/shm").iterdir() if f"_{main}_" in path.name} <= before
    errors = [line for line in err.splitlines() if line.startswith(("ZeroDivisionError", "Exception", "RuntimeError"))]
    assert errors == (["ZeroDivisionError"] if way == "exception" else []), err
    assert err.count("Traceback") == (1 if way in ("exception", "interrupt") else 0), err
    assert "worker" not in err.replace("elastic_worker", ""), err


@pytest.mark.parametrize("way", CODES)
def test_forked_workers_go_with_their_trainer(way: str) -> None:
    ends(way, "fork", "persistent" if way in ("end", "exception") else "once")


@pytest.mark.parametrize(("way", "context"), [("sigkill", "spawn"), ("exception", "forkserver")])
def test_other_workers_go_with_their_trainer(way: str, context: str) -> None:
    ends(way, context)
