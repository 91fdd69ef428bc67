"""Workers that die, hang or cannot send: what it costs, what is told, and that nothing loops."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from lf_autoworkers.elastic import (
    BatchUnsent,
    ElasticOptions,
    LoaderEvent,
    WorkerHung,
    WorkerLost,
    WorkerRetired,
    elastic,
    wire,
)
from lf_autoworkers.elastic import collector as collector_module
from lf_autoworkers.elastic import pool as pool_module
from lf_autoworkers.errors import LoaderError
from tests.unit.elastic.rows import Big, Numbers, dies_on, hangs_on, in_worker
from tests.unit.elastic.test_contract import flat, until


class Spy:
    """Keeps every event of a run."""

    def __init__(self) -> None:
        self.events: list[LoaderEvent] = []

    def __call__(self, event: LoaderEvent) -> None:
        self.events.append(event)

    def lost(self) -> list[WorkerLost]:
        return [event for event in self.events if isinstance(event, WorkerLost)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGBUS])
def test_a_killed_worker_costs_one_line_and_no_batch(number: signal.Signals, warnings: list[str]) -> None:
    loader = DataLoader(Numbers(60, lambda row: time.sleep(0.002)), batch_size=1)
    spy = Spy()
    with elastic(loader, 2) as run:
        run.subscribe(spy)
        rows = []
        for step, batch in enumerate(loader):
            rows += flat([batch])
            if step == 10:
                victim = next(worker for worker in run.workers() if worker.busy)
                os.kill(victim.pid, number)
                until(lambda: bool(spy.lost()))
        assert rows == list(range(60))
    (lost,) = spy.lost()
    if number is signal.SIGTERM:  # PyTorch's handler makes it an ordinary exit
        assert (lost.signal, lost.exit_code) in ((signal.SIGTERM, None), (None, 0), (None, 1))
    else:
        assert (lost.signal, lost.exit_code) == (number, None)
    assert lost.pid == victim.pid and not lost.by_us and lost.oom_killed is None
    assert 0 <= lost.redone_batches <= 2
    assert len(warnings) == 1
    assert f"(pid {victim.pid})" in warnings[0] and "done again, order kept; workers left: 1" in warnings[0]


def test_all_workers_killed_at_once_twice() -> None:
    loader = DataLoader(Big(60), batch_size=2)
    with elastic(loader, 3) as run:
        rows = []
        for step, batch in enumerate(loader):
            rows.append(int(batch[0, 0]))
            if step in (5, 15):
                for worker in run.workers():
                    os.kill(worker.pid, signal.SIGKILL)
        assert rows == list(range(0, 60, 2))
        assert run.stats().lost_workers >= 3


def test_kills_by_us_are_blamed_on_nobody(warnings: list[str]) -> None:
    loader = DataLoader(Numbers(6, lambda row: time.sleep(0.2)), batch_size=1)
    with elastic(loader, 1) as run:
        spy = Spy()
        run.subscribe(spy)
        iterator = iter(loader)
        for kills in range(1, 6):
            until(lambda: any(worker.busy for worker in run.workers()) or _step(iterator))
            assert run.kill(run.workers()[0].pid)
            until(lambda wanted=kills: len(spy.lost()) == wanted)  # type: ignore[misc]
        assert not run.kill(1)
        rest = flat(iterator)
        assert rest == list(range(6))[6 - len(rest) :]
    assert all(event.by_us and event.signal == signal.SIGKILL for event in spy.lost())
    assert all("was killed by us with SIGKILL" in line for line in warnings)


def _step(iterator: Any) -> bool:
    next(iterator)
    return False


def test_a_batch_that_kills_three_workers_ends_the_run_with_its_rows(tmp_path: Path) -> None:
    loader = DataLoader(Numbers(12, dies_on(7, 99, tmp_path)), batch_size=2)
    with elastic(loader, 2) as run:
        iterator = iter(loader)
        assert flat([next(iterator) for _ in range(3)]) == [0, 1, 2, 3, 4, 5]
        with pytest.raises(LoaderError, match=r"batch 3 \(dataset indices \[6, 7\]\) killed its .* 3 times"):
            next(iterator)
        assert flat(iterator) == [8, 9, 10, 11]
        assert run.stats().lost_workers == 3


def test_two_deaths_are_forgiven(tmp_path: Path) -> None:
    loader = DataLoader(Numbers(12, dies_on(7, 2, tmp_path)), batch_size=2)
    with elastic(loader, 2):
        assert flat(loader) == list(range(12))


def test_the_kernels_kills_do_not_make_a_batch_poisonous_but_end_a_run_that_cannot_fit(
    tmp_path: Path, warnings: list[str]
) -> None:
    kills = tmp_path / "kills"
    kills.mkdir()
    options = ElasticOptions(oom_kills=lambda: 40 + len(list(kills.iterdir())), memory_limit_bytes=lambda: 3 * 1024**3)
    loader = DataLoader(Numbers(12, dies_on(7, 99, kills)), batch_size=2)
    spy = Spy()
    with elastic(loader, 1, options) as run:
        run.subscribe(spy)
        iterator = iter(loader)
        for _ in range(3):
            next(iterator)
        with pytest.raises(LoaderError, match=r"\[6, 7\]\) does not fit: .* memory limit of 3\.0 GiB; .* took"):
            next(iterator)
        assert flat(iterator) == [8, 9, 10, 11]
    assert [event.oom_killed for event in spy.lost()] == [True, True, True]
    assert (spy.lost()[0].oom_kills_before, spy.lost()[0].oom_kills_after) == (40, 41)
    assert "was killed by SIGKILL, oom_kill 40 -> 41: " in warnings[0]


def test_the_kernels_kills_among_others_are_done_again_until_it_fits(tmp_path: Path) -> None:
    kills = tmp_path / "kills"
    kills.mkdir()
    loader = DataLoader(Numbers(30, dies_on(7, 5, kills)), batch_size=2)
    options = ElasticOptions(oom_kills=lambda: len(list(kills.iterdir())))
    with elastic(loader, 3, options) as run:
        assert flat(loader) == list(range(30))
        assert run.stats().lost_workers == 5


def test_workers_that_die_before_hello_are_not_started_for_ever(warnings: list[str]) -> None:
    loader = DataLoader(Numbers(10), num_workers=2, worker_init_fn=_die)
    with elastic(loader) as run:
        assert flat(loader) == list(range(10))
        assert run.stats().lost_workers <= 4
        assert run.stats().in_process_batches == 10
    assert any("in a row ended before they were ready; no more are started" in line for line in warnings)


def _die(worker_id: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_never_says_hello_is_given_up(warnings: list[str]) -> None:
    loader = DataLoader(Numbers(10), num_workers=1, worker_init_fn=_sleep)
    with elastic(loader, None, ElasticOptions(hello_timeout_s=0.5)) as run:
        assert flat(loader) == list(range(10))
        assert run.workers() == ()
    assert any("did not get ready in time" in line for line in warnings)


def _sleep(worker_id: int) -> None:
    time.sleep(600)


def test_a_hanging_worker_is_named_and_killed_once_and_then_only_named(tmp_path: Path, warnings: list[str]) -> None:
    loader = DataLoader(Numbers(8, hangs_on(5, 2, tmp_path, seconds=1.5)), batch_size=2)
    spy = Spy()
    with elastic(loader, 2, ElasticOptions(hang_timeout_s=0.6)) as run:
        run.subscribe(spy)
        assert flat(loader) == list(range(8))
    hangs = [event for event in spy.events if isinstance(event, WorkerHung)]
    assert [(event.indices, event.killed) for event in hangs] == [("[4, 5]", True), ("[4, 5]", False)]
    assert [event.by_us for event in spy.lost()] == [True]
    assert "has been on one batch for" in warnings[0] and "(dataset indices [4, 5]): killed" in warnings[0]


def test_the_hang_time_out_is_off_until_costs_are_known() -> None:
    loader = DataLoader(Numbers(64), batch_size=1)
    with elastic(loader, 1) as run:
        assert run.hang_timeout_s() is None
        list(loader)
        assert run.hang_timeout_s() == 60.0


def test_retiring_replaces_a_worker_without_a_loss() -> None:
    loader = DataLoader(Numbers(200, lambda row: time.sleep(0.002)), batch_size=1)
    spy = Spy()
    with elastic(loader, 1) as run:
        run.subscribe(spy)
        iterator = iter(loader)
        rows = flat([next(iterator) for _ in range(5)])
        old = run.workers()[0].pid
        assert run.retire(old)
        assert not run.retire(1)
        rows += flat(iterator)
        assert rows == list(range(200))
    assert next(event.pid for event in spy.events if isinstance(event, WorkerRetired)) == old
    assert not spy.lost() and run.stats().in_process_batches == 0


def test_out_of_descriptors_in_the_worker_the_batch_comes_through_the_socket(warnings: list[str]) -> None:
    loader = DataLoader(Big(6), batch_size=1, num_workers=1, worker_init_fn=_no_descriptors)
    spy = Spy()
    with elastic(loader) as run:
        run.subscribe(spy)
        assert [int(batch[0, 0]) for batch in loader] == list(range(6))
        assert run.stats().in_process_batches == 0
    unsent = [event for event in spy.events if isinstance(event, BatchUnsent)]
    assert len(unsent) == 6 and "Too many open files" in unsent[0].reason
    assert len(warnings) == 1  # the first is told; more would only repeat it


def _no_descriptors(worker_id: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def test_out_of_descriptors_in_the_main_process_the_batch_comes_through_the_socket() -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    loader = DataLoader(Big(40), batch_size=1)
    spy = Spy()
    with elastic(loader, 1) as run:
        run.subscribe(spy)
        iterator = iter(loader)
        rows = [int(next(iterator)[0, 0]) for _ in range(3)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            rows += [int(next(iterator)[0, 0]) for _ in range(20)]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        rows += [int(batch[0, 0]) for batch in iterator]
        assert rows == list(range(40))
        assert run.stats().in_process_batches == 0
    unsent = [event for event in spy.events if isinstance(event, BatchUnsent)]
    assert unsent and "out of file descriptors" in unsent[0].reason


def test_batches_larger_than_shared_memory_do_not_need_it() -> None:
    """PyTorch's own loader hangs where /dev/shm is smaller than a batch; ours puts no file there at all."""
    before = {path.name for path in Path("/dev/shm").iterdir()}
    loader = DataLoader(Big(6, floats=5_000_000), batch_size=1)
    with elastic(loader, 2):
        for number, batch in enumerate(loader):
            assert float(batch[0, 17]) == number
            assert {path.name for path in Path("/dev/shm").iterdir()} <= before | _of_others()


def _of_others() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir() if f"_{os.getpid()}_" not in path.name}


def test_a_grandchild_that_holds_our_descriptors_cannot_hide_a_death(tmp_path: Path) -> None:
    def fork_and_die(row: int) -> None:
        if row == 3 and in_worker() and not list(tmp_path.iterdir()):
            if os.fork() == 0:
                (tmp_path / str(os.getpid())).touch()
                time.sleep(60)
                os._exit(0)
            until(lambda: bool(list(tmp_path.iterdir())))
            os.kill(os.getpid(), signal.SIGKILL)

    loader = DataLoader(Numbers(10, fork_and_die), batch_size=1)
    with elastic(loader, 1) as run:
        assert flat(loader) == list(range(10))
        assert run.stats().lost_workers == 1
    os.kill(int(next(tmp_path.iterdir()).name), signal.SIGKILL)


def test_a_bug_of_ours_in_the_thread_is_told_and_every_batch_still_comes(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    def broken(self: Any, process: Any, frame: wire.Result) -> None:
        raise ZeroDivisionError("a bug")

    loader = DataLoader(Numbers(20), batch_size=1)
    with elastic(loader, 2) as run:
        iterator = iter(loader)
        rows = flat([next(iterator) for _ in range(3)])
        monkeypatch.setattr(collector_module.Collector, "_take", broken)
        rows += flat(iterator)
        assert rows == list(range(20))
        assert run.stats().in_process_batches > 0
    assert "every batch is made in the main process" in warnings[0]


def test_a_listener_that_fails_is_told_and_nothing_else(warnings: list[str]) -> None:
    def broken(event: LoaderEvent) -> None:
        raise ZeroDivisionError

    loader = DataLoader(Numbers(20), batch_size=1)
    with elastic(loader, 1) as run:
        stop = run.subscribe(broken)
        assert flat(loader) == list(range(20))
        stop()
        before = len(warnings)
        run.resize(0)
    assert before == len(warnings) >= 1
    assert "a listener of the elastic loader failed" in warnings[0]


def test_the_workers_volunteer_for_the_oom_killer_and_tell_their_private_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lf_autoworkers.elastic import worker

    monkeypatch.setattr(worker, "USS_EVERY_S", 0.0)
    monkeypatch.setattr(worker, "USS_SHARE", 1.0)
    loader = DataLoader(Numbers(20), batch_size=1)
    own = int(Path("/proc/self/oom_score_adj").read_text())
    with elastic(loader, 1) as run:
        iterator = iter(loader)
        for _ in range(5):
            next(iterator)
        (snapshot,) = run.workers()
        raised = int(Path(f"/proc/{snapshot.pid}/oom_score_adj").read_text())
        assert raised == min(1000, own + worker.OOM_SCORE_STEP)
        assert snapshot.uss_bytes is not None and 2**20 < snapshot.uss_bytes < 2**31
        assert snapshot.uss_age_s is not None and snapshot.uss_age_s < 20
        assert worker.read_uss_bytes(snapshot.pid) is not None
        assert worker.read_uss_bytes(2**22 + 5) is None


def test_batches_that_wait_are_not_kept_alive_by_workers_forked_meanwhile() -> None:
    """A fork would otherwise inherit the mappings of everything that is ready, and keep its memory while it lives."""
    loader = DataLoader(Big(60), batch_size=2)
    with elastic(loader, 1, ElasticOptions(prefetch_factor=8)) as run:
        iterator = iter(loader)
        next(iterator)
        until(lambda: run.stats().ready_batches >= 6)
        run.resize(2)
        next(iterator)
        until(lambda: run.stats().live_workers == 2)
        newest = max(worker.pid for worker in run.workers())
        assert Path(f"/proc/{newest}/maps").read_text().count("lf-autoworkers-batch") <= 2  # those already delivered
        assert pool_module._live_pools
        assert len(list(iterator)) == 28


def test_delivered_batches_outlive_workers_iterator_and_run() -> None:
    loader = DataLoader(Big(4), batch_size=2)
    with elastic(loader, 1):
        kept = list(loader)
    assert [float(batch.sum()) for batch in kept] == [100_000.0, 500_000.0]
    kept[0].zero_()
    assert torch.equal(kept[0], torch.zeros(2, 100_000))
