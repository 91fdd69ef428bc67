"""The controller against a loader without processes: what it obeys, and that it never costs a run.

The real loader and the real kernel are in tests/real.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from lf_autoworkers.elastic.api import BatchCost, LoaderEvent, LoaderStats, WorkerPhase, WorkerSnapshot
from lf_autoworkers.journal import Journal, read_journal
from lf_autoworkers.steering.controller import Controller, Orders
from lf_autoworkers.steering.danger import Surroundings
from lf_autoworkers.steering.guard import Guard
from lf_autoworkers.steering.readings import Reading
from lf_autoworkers.steering.sensor import Sensor
from lf_autoworkers.steering.turns import Turn
from lf_autoworkers.units import GIB, MIB

from .machine import V2_MOUNT, host, process, v2_level, write

LOGGER = logging.getLogger("tests.guard")
CGROUP = "/sys/fs/cgroup/job"


class ListLoader:
    """A loader whose workers are entries of a list and come and go at once."""

    def __init__(self, target: int) -> None:
        self.may_start: Callable[[], bool] | None = None
        self.target = target
        self.pids: list[int] = []
        self.calls: list[str] = []
        self.listener: Callable[[LoaderEvent], None] | None = None
        self.delivered = 0

    def fill(self) -> None:
        """Start what is wanted, asking for each."""
        while len(self.pids) < self.target and (self.may_start is None or self.may_start()):
            self.pids.append(max(self.pids, default=100) + 1)

    def resize(self, workers: int, *, first: Sequence[int] = ()) -> int:
        self.calls.append(f"resize {workers}")
        self.target = workers
        for pid in first:
            self.pids.remove(pid)
        del self.pids[workers:]
        return workers

    def workers(self) -> tuple[WorkerSnapshot, ...]:
        return tuple(WorkerSnapshot(pid, pid, WorkerPhase.LIVE, 0, False, None, None) for pid in self.pids)

    def stats(self) -> LoaderStats:
        costs = [BatchCost(n, 0.1, 0.1, 4 * MIB, pid) for n in range(3) for pid in self.pids]
        return LoaderStats(self.target, len(self.pids), 0, 0, 0, self.delivered, 1.0, 0.0, 0, 0, 0, 0, costs)

    def retire(self, pid: int) -> bool:
        self.calls.append(f"retire {pid}")
        return True

    def kill(self, pid: int) -> bool:
        self.calls.append(f"kill {pid}")
        return True

    def set_prefetch(self, batches_per_worker: int | None) -> None:
        self.calls.append(f"prefetch {batches_per_worker}")

    def feed(self, on: bool) -> None:
        self.calls.append(f"feed {on}")

    def subscribe(self, listener: Callable[[LoaderEvent], None]) -> Callable[[], None]:
        self.listener = listener
        return lambda: None


class Bench:
    """A controller, a loader and a machine of 8 GiB whose use the test sets."""

    def __init__(self, root: Path, wanted: int = 4, *, observe: bool = False, turn: Turn | None = None) -> None:
        self.root = root
        self.now = 0.0
        self.loader = ListLoader(wanted)
        write(root, {**host(), "/proc/self/cgroup": "0::/job", "/proc/self/mountinfo": V2_MOUNT.strip()})
        self.use(GIB)
        for pid in range(101, 120):
            write(root, process(pid, anonymous=GIB, private=100 * MIB))
        self.journal = root / "journal"
        self.controller = Controller(
            self.loader,
            Orders(wanted, prefetch=2, batch_bytes=4 * MIB, observe=observe),
            sensor=Sensor(root, pid=1, read_shm=lambda: None),
            guard=Guard(Surroundings(worker_bytes=200 * MIB)),
            journal=Journal(self.journal, LOGGER),
            logger=LOGGER,
            turn=turn,
            clock=lambda: self.now,
        )

    def use(self, used: int) -> None:
        write(self.root, v2_level(CGROUP, 8 * GIB, used))

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += self.controller.tick()
            self.loader.fill()
            self.loader.delivered += 1


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(autouse=True)
def _no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks are the test's: the thread has its own test."""
    monkeypatch.setattr(Controller, "_awake", lambda self: None)


def test_it_starts_with_one_and_ramps_up(bench: Bench) -> None:
    bench.controller.attach()
    assert bench.loader.target == 1
    bench.loader.fill()
    bench.pass_time(3)
    assert len(bench.loader.pids) == 4


def test_under_pressure_it_sheds_says_so_and_writes_it_down(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.controller.attach()
    bench.pass_time(5)
    bench.controller.begin_training(411)
    bench.controller.finish_step(412)
    with caplog.at_level(logging.INFO):
        bench.use(int(7.1 * GIB))
        bench.pass_time(12)
    assert bench.loader.target < 4
    assert "prefetch 1" in bench.loader.calls
    (line,) = [r.getMessage() for r in caplog.records if "dataloader workers now 4 -> 3" in r.getMessage()]
    for part in ("921.6 MiB left of 8.0 GiB", "memory.max", "step 412", "line 983.0 MiB"):
        assert part in line
    bench.controller.close()
    events = list(read_journal(bench.journal))
    resizes = [event for event in events if event["event"] == "resize" and event["act"] == "retire"]
    assert (resizes[0]["from"], resizes[0]["to"], resizes[0]["step"]) == (4, 3, 412)
    assert events[-1]["event"] == "summary"


def test_observing_changes_nothing_and_says_what_would(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(tmp_path, observe=True)
    bench.controller.attach()
    bench.loader.fill()
    assert len(bench.loader.pids) == 4
    with caplog.at_level(logging.WARNING):
        bench.use(int(7.2 * GIB))
        bench.pass_time(10)
    assert bench.loader.calls == []
    assert "would be 4 -> 3" in caplog.text


def test_a_guard_that_fails_gives_the_plan_back(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.controller.attach()
    assert bench.loader.may_start is not None
    (bench.root / "proc").rename(bench.root / "gone")
    bench.pass_time(1)  # files that vanish are no failure
    monkeypatch.setattr(bench.controller, "_sensor", None)
    with caplog.at_level(logging.WARNING):
        bench.controller._run()
    assert bench.loader.target == 4
    assert bench.loader.calls[-1] == "resize 4"
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == ["memory guard"]
    assert bench.controller.may_start()
    bench.loader.fill()
    assert len(bench.loader.pids) == 4


def test_closing_twice_is_harmless(bench: Bench) -> None:
    bench.controller.attach()
    assert bench.controller.may_start()
    bench.controller.finish()
    bench.controller.close()
    bench.controller.close()
    assert [event["event"] for event in read_journal(bench.journal)].count("summary") == 1


def test_of_four_ranks_one_sheds(tmp_path: Path) -> None:
    """Each rank is a process of its own: record locks are per process, so the others are children here."""
    lock = tmp_path / "turn"
    mine = Turn(lock)
    assert mine.take()
    assert mine.take()
    ask = "import pathlib, sys; from lf_autoworkers.steering.turns import Turn"
    ask += "; print(Turn(pathlib.Path(sys.argv[1])).take())"

    def other() -> str:
        return subprocess.run(
            [sys.executable, "-c", ask, lock], capture_output=True, text=True, check=True
        ).stdout.strip()

    assert other() == "False"
    mine.give_back()
    assert other() == "True"
    assert mine.take(), "the child is dead, and its lock with it"
    mine.give_back()


def test_the_thread_is_awake_before_the_first_start_and_ends_with_the_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    bench = Bench(tmp_path)
    ticked = threading.Event()

    class Watched(Sensor):
        def read(self, now: float, batches: Mapping[int, int]) -> Reading:
            ticked.set()
            return super().read(now, batches)

    monkeypatch.setattr(bench.controller, "_sensor", Watched(tmp_path, pid=1, read_shm=lambda: None))
    bench.controller.attach()
    ticked.clear()
    assert bench.controller.may_start()
    assert ticked.wait(5)
    thread = bench.controller._thread
    assert thread is not None
    bench.controller.close()
    assert not thread.is_alive()
