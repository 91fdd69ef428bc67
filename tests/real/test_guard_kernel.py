"""The guard against the real kernel: memory cgroups, real workers, a loop that stands for the trainer.

Each limit comes from peaks measured in the same test. The real trainer is in test_guard_train.py; the whole matrix is
benchmarks/guard_matrix.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lf_autoworkers.journal import read_journal
from lf_autoworkers.units import MIB

from .boxes import Box, BoxedRun, run_boxed, unavailable

REPOSITORY = Path(__file__).parent.parent.parent
REASON = unavailable()
pytestmark = [
    pytest.mark.real,
    pytest.mark.cgroup,
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
]


@dataclass
class Loop:
    """A finished loop: how its process ended, and what it printed and wrote."""

    run: BoxedRun
    result: dict[str, Any]
    events: list[dict[str, Any]]

    def acts(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the orders of these kinds that the guard gave."""
        return [event for event in self.events if event.get("act") in kinds]


def environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def command(folder: Path, **options: Any) -> list[str]:
    path = folder / f"options-{len(list(folder.glob('options-*')))}.json"
    path.write_text(json.dumps(options))
    return [sys.executable, "-W", "ignore", "-m", "tests.real.boxed_loader", str(path)]


def loop(
    folder: Path, limit_bytes: int | None, *, on_parent: bool = False, timeout_s: float = 120, **options: Any
) -> Loop:
    """Run one loop to its end in a box of its own."""
    journal = folder / f"journal-{len(list(folder.glob('journal-*')))}"
    journal.touch()
    run = run_boxed(
        command(folder, journal=str(journal), **options),
        limit_bytes=limit_bytes,
        on_parent=on_parent,
        cwd=folder,
        environ=environ(),
        timeout_s=timeout_s,
    )
    return Loop(run, result_of(run.text), [dict(event) for event in read_journal(journal)])


def result_of(text: str) -> dict[str, Any]:
    last = text.strip().rpartition("\n")[2]
    return dict(json.loads(last)) if last.startswith("{") else {}


@pytest.mark.parametrize("on_parent", [False, True], ids=["own", "parent"])
def test_where_eight_fixed_workers_die_eight_guarded_ones_finish(tmp_path: Path, on_parent: bool) -> None:
    one = loop(tmp_path, None, workers=1, guard="stock", batches=20)
    eight = loop(tmp_path, None, workers=8, guard="stock", batches=80)
    limit = one.run.peak_bytes + (eight.run.peak_bytes - one.run.peak_bytes) // 2

    stock = loop(tmp_path, limit, on_parent=on_parent, workers=8, guard="stock", batches=80)
    assert stock.run.code != 0
    assert stock.run.oom_kills > 0

    guarded = loop(tmp_path, limit, on_parent=on_parent, workers=8, batches=80)
    assert guarded.run.code == 0, guarded.run.text
    assert guarded.run.oom_kills == 0
    assert guarded.result["steps"] == 80
    assert guarded.result["digest"] == eight.result["digest"]


@pytest.mark.parametrize("rate_mb_s", [50, 100, 200, 500])
def test_workers_that_leak(tmp_path: Path, rate_mb_s: int) -> None:
    """Two workers that together leak this much a second, until several boxes would be full."""
    # 40 samples a second are made at most: two workers, 50 ms each.
    leak: dict[str, Any] = {"workers": 2, "leak_mib": rate_mb_s * 1e6 / MIB / 40}
    sound = loop(tmp_path, None, workers=2, guard="stock", batches=20)
    limit = sound.run.peak_bytes + 400 * MIB
    batches = max(300, 3 * 400 * MIB // int(leak["leak_mib"] * MIB))

    if rate_mb_s == 200:
        stock = loop(tmp_path, limit, guard="stock", batches=batches, **leak)
        assert stock.run.code != 0
    guarded = loop(tmp_path, limit, batches=batches, timeout_s=200, **leak)
    assert guarded.run.code == 0, guarded.run.text
    assert guarded.result["steps"] == batches
    assert guarded.acts("recycle", "kill")
    if rate_mb_s <= 200:
        assert guarded.run.oom_kills == 0


def test_one_huge_image(tmp_path: Path) -> None:
    """Every thirtieth sample takes most of the room that eight workers leave."""
    options: dict[str, Any] = {"workers": 6, "batches": 60, "huge_every": 30, "huge_mib": 300, "sample_s": 0.2}
    sound = loop(tmp_path, None, workers=6, batches=60, guard="stock", sample_s=0.2)
    limit = sound.run.peak_bytes + 100 * MIB
    guarded = loop(tmp_path, limit, **options)
    assert guarded.run.code == 0, guarded.run.text
    assert guarded.result["digest"] == sound.result["digest"]
    assert guarded.run.oom_kills == 0


class Running:
    """A loop that still runs in a box the test has its hands on."""

    def __init__(self, box: Box, folder: Path, name: str, **options: Any) -> None:
        self.journal = folder / f"{name}.journal"
        self.output = folder / f"{name}.log"
        self.process = box.popen(
            command(folder, journal=str(self.journal), **options), cwd=folder, environ=environ(), output=self.output
        )

    def acts(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the orders of these kinds so far."""
        if not self.journal.exists():
            return []
        return [dict(event) for event in read_journal(self.journal) if event.get("act") in kinds]

    def target(self) -> int:
        """Return the workers wanted now."""
        changes = self.acts("start", "retire", "kill")
        return int(changes[-1]["to"]) if changes else 1

    def finish(self, timeout_s: float = 60) -> dict[str, Any]:
        """Wait for the end and return the result."""
        code = self.process.wait(timeout_s)
        text = self.output.read_text()
        assert code == 0, text
        return result_of(text)


@contextmanager
def eater(box: Box, folder: Path) -> Iterator[Any]:
    """A neighbour in the box; called with a command, it returns when that is done."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.real.eater"],
        env=environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=box.enter,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def tell(words: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(words + "\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith("done"), "the neighbour was killed"

    try:
        yield tell
    finally:
        process.stdin.close()
        process.stdout.close()
        process.kill()
        process.wait()


def until(condition: Any, what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_s} s"
        time.sleep(0.05)


STEADY = {"batches": 100_000, "sample_mib": 10, "hold_mib": 60, "sample_s": 0.1, "step_s": 0.05}


def test_a_neighbour_comes_and_goes(tmp_path: Path) -> None:
    with Box(None) as box, eater(box, tmp_path) as tell:
        running = Running(box, tmp_path, "loop", workers=4, seconds=300, regrow_s=4.0, **STEADY)
        until(lambda: running.target() == 4, "the ramp")
        time.sleep(2)  # the workers' own growth ends
        used = box.used_bytes()
        limit = used + 500 * MIB
        box.set_limit(limit)
        time.sleep(6)  # a limit set while a run lasts is looked for every 5 s
        tell(f"eat {500 * MIB - limit // 10}")
        until(lambda: running.target() < 4, "shedding")
        low = running.target()
        tell("free")
        until(lambda: running.target() > low, "coming back")
        running.process.terminate()
        running.process.wait(30)
        assert box.oom_kills == 0


def test_page_cache_is_no_alarm(tmp_path: Path) -> None:
    """The box is filled to its limit with the cache of a file that was written and read again."""
    with Box(None) as box, eater(box, tmp_path) as tell:
        running = Running(box, tmp_path, "loop", workers=3, seconds=20, **STEADY)
        until(lambda: running.target() == 3, "the ramp")
        time.sleep(2)
        limit = box.used_bytes() + 600 * MIB
        box.set_limit(limit)
        tell(f"cache {tmp_path / 'big'} {900 * MIB}")
        charged = int((box.directory / ("memory.usage_in_bytes" if box.version == 1 else "memory.current")).read_text())
        assert charged > 0.97 * limit
        running.finish(90)
        assert running.acts("throttle", "retire", "kill", "recycle", "give up") == []
        assert box.oom_kills == 0


def test_four_ranks_shed_one_worker(tmp_path: Path) -> None:
    with Box(None) as box, eater(box, tmp_path) as tell:
        turn = str(tmp_path / "turn")
        ranks = [
            Running(box, tmp_path, f"rank{rank}", workers=2, ranks=4, turn=turn, seconds=300, **STEADY)
            for rank in range(4)
        ]
        until(lambda: all(rank.target() == 2 for rank in ranks), "the ramps", 90)
        time.sleep(2)
        limit = box.used_bytes() + 800 * MIB
        box.set_limit(limit)
        time.sleep(6)
        # Half of one worker's memory below the line.
        tell(f"eat {limit - box.used_bytes() - int(0.12 * limit) + 30 * MIB}")
        until(lambda: any(rank.acts("retire", "kill") for rank in ranks), "shedding")
        time.sleep(6)
        shed = [len(rank.acts("retire", "kill")) for rank in ranks]
        for rank in ranks:
            rank.process.terminate()
        for rank in ranks:
            rank.process.wait(30)
        assert sum(shed) == 1, shed
        assert box.oom_kills == 0


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="needs root and unshare(1)")
def test_a_small_dev_shm(tmp_path: Path) -> None:
    """64 MB, Docker's default, and batches of 20 MB: PyTorch's workers hang for ever, ours do not use it."""
    small = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "sh"]
    options = {"workers": 4, "batches": 30, "batch_mib": 20}
    common: dict[str, Any] = {"limit_bytes": None, "cwd": tmp_path, "environ": environ(), "prefix": small}
    stock = run_boxed(command(tmp_path, guard="stock", **options), timeout_s=25, **common)
    assert stock.timed_out or stock.code != 0
    guarded = run_boxed(command(tmp_path, **options), timeout_s=60, **common)
    assert guarded.code == 0, guarded.text
    assert result_of(guarded.text)["steps"] == 30
