"""What the consumer and the collector share: the state machine, the processes, and the batches that wait.

`Pool` carries out what `state.py` says, under one lock. The consumer's thread is `consumer.py` (pulls the sampler,
forks; nobody else does), the other one is `collector.py`. Whoever steers may call the verbs from any thread.
Does NOT decide anything about batches and workers, and does NOT know DataLoaders (`iterator.py` does).
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.context import BaseContext
from typing import Any

from torch._utils import ExceptionWrapper

from lf_autoworkers.elastic import messages as m
from lf_autoworkers.elastic import seeding, wire
from lf_autoworkers.elastic.api import LoaderEvent, WorkerPhase, WorkerSnapshot
from lf_autoworkers.elastic.collector import Collector, Stored
from lf_autoworkers.elastic.process import WorkerProcess, fork_gate, no_interrupt, start_worker
from lf_autoworkers.elastic.reports import Report, event_of
from lf_autoworkers.elastic.run import ElasticRun
from lf_autoworkers.elastic.state import LoaderState
from lf_autoworkers.elastic.telling import indices_text, never_ready, why_given_up
from lf_autoworkers.elastic.worker import WorkerSpec
from lf_autoworkers.errors import LoaderError

_live_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


@dataclass(frozen=True)
class Depths:
    """How many workers and batches there are right now."""

    live: int
    starting: int
    ready: int
    window: int


@dataclass(frozen=True)
class Index:
    """One index batch: as the sampler gave it, and as it goes to a worker (None if it cannot be pickled)."""

    raw: Any
    frame: bytes | None


class Pool:
    """The workers and the batches of one iterator.

    Args:
        spec: What each worker gets; ``worker_id`` and ``num_workers`` are filled in at its start.
        context: The start method.
        run: Whose target to follow and whom to tell.
        loader_factor: The loader's own prefetch factor.
        pin: See `Collector`.
        rank: Mixed into the batches' seeds, so that ranks do not draw the same numbers.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        context: BaseContext,
        run: ElasticRun,
        loader_factor: int,
        pin: tuple[Callable[[Any], Any], Callable[[], None]] | None,
        rank: int,
    ) -> None:
        self.lock = threading.Condition()
        self.closed = False
        self.run = run
        self.state = LoaderState(run.target, loader_factor)
        self.processes: dict[int, WorkerProcess] = {}
        self.indices: dict[int, Index] = {}
        self.ready: dict[int, Stored] = {}
        self.to_start: list[m.StartWorker] = []
        self.init_error: ExceptionWrapper | None = None
        self.started_any = False
        self.collector = Collector(self, pin)
        self._spec, self._context, self._rank = spec, context, rank
        self._loader_factor = loader_factor
        self._epoch = 0
        self._collapsed = False
        self._events: list[LoaderEvent] = []
        self._notes: list[str] = []
        self._pid = os.getpid()
        patience = 1 if context.get_start_method() == "fork" else 5
        self.hello_timeout_s = patience * run.options.hello_timeout_s
        with fork_gate():
            _live_pools.add(self)
        run.adopt(self)
        self.sync()

    # With the lock held.

    def carry_out(self, instructions: Sequence[m.Instruction], arrived: Stored | None = None) -> m.Instruction | None:
        """Do what the state machine says; return what is for the consumer to do, if anything is."""
        answer: m.Instruction | None = None
        for instruction in instructions:
            match instruction:
                case m.StartWorker():
                    self.to_start.append(instruction)
                case m.Dispatch(serial, index, inline):
                    self._dispatch(self.processes[serial], index, inline)
                case m.Store(index):
                    assert arrived is not None
                    self.ready[index] = arrived
                case m.StopWorker(serial):
                    if serial in self.processes:  # else it is being started, see `start_one`
                        self._tell_to_stop(self.processes[serial])
                case m.KillWorker(serial):
                    self.processes[serial].kill()
                case m.GiveUp(index, verdict):
                    self.ready[index] = Stored(LoaderError(self._why_given_up(index, verdict)))
                case m.ReportLoss() | m.ReportRetired() | m.ReportHang() | m.ReportFrozen():
                    self._report(instruction)
                case _:
                    answer = instruction
        self.lock.notify_all()
        return answer

    def say(self, event: LoaderEvent) -> None:
        """Have an event told at the next `flush_events`."""
        self._events.append(event)

    def note(self, line: str) -> None:
        """Have a warning logged at the next `flush_events`."""
        self._notes.append(line)

    def note_init_error(self, error: ExceptionWrapper) -> None:
        """Keep what ``worker_init_fn`` raised, for the consumer."""
        self.init_error = error

    def seed_of(self, index: int) -> int:
        """Return the seed of a batch."""
        return seeding.batch_seed(self._spec.base_seed, self._epoch, self._rank, index)

    def _dispatch(self, process: WorkerProcess, index: int, inline: bool) -> None:
        frame = self.indices[index].frame
        assert frame is not None
        if process.busy_since is None:
            process.busy_since = time.monotonic()
        task = wire.Task(wire.TASK, inline, self.state.generation, index, self.seed_of(index), frame)
        process.send(wire.pack_task(task))

    def _tell_to_stop(self, process: WorkerProcess) -> None:
        process.stopped_at = time.monotonic()
        process.send(wire.pack_task(wire.Task(wire.STOP, False, 0, 0, 0, b"")))

    def _why_given_up(self, index: int, verdict: m.Verdict) -> str:
        read_limit = self.run.options.memory_limit_bytes
        limit_bytes = read_limit() if read_limit else None
        indices = indices_text(self.indices[index].raw)
        return why_given_up(index, indices, verdict, self.run.largest_batch_bytes(), limit_bytes)

    def _report(self, report: Report) -> None:
        if isinstance(report, m.ReportFrozen):
            self.note(never_ready(report.never_said_hello))
            return
        index = report.index if isinstance(report, m.ReportHang) else None
        indices = "of an earlier epoch" if index is None else indices_text(self.indices[index].raw)
        self.say(event_of(report, self.processes[report.serial], indices, live_workers=len(self.processes) - 1))

    # Without the lock.

    def begin(self, base_seed: int, epoch: int) -> None:
        """Start over with a fresh sampler; what workers still hold is dropped when it comes."""
        with self.lock:
            self._spec = replace(self._spec, base_seed=base_seed)
            self._epoch = epoch
            self.indices.clear()
            self.ready.clear()
            self.carry_out(self.state.handle(m.EpochBegun(self.state.generation + 1)))

    def start_one(self, start: m.StartWorker) -> None:
        """Start a worker, on the consumer's thread."""
        with fork_gate(), no_interrupt():
            pools = list(_live_pools)
            spec = replace(
                self._spec,
                worker_id=start.worker_id,
                num_workers=max(1, self.state.target),
                parent_pid=None if self._context.get_start_method() == "forkserver" else os.getpid(),
            )
            others = [process.sock for pool in pools for process in list(pool.processes.values())]
            hidden = [stored.segment for pool in pools for stored in list(pool.ready.values()) if stored.segment]
            for segment in hidden:
                segment.inherit(False)
            try:
                process = start_worker(self._context, spec, start.serial, others)
            finally:
                for segment in hidden:
                    segment.inherit(True)
            self.collector.watch(process)
            with self.lock:
                self.processes[start.serial] = process
                self.started_any = True
                if self.state.workers[start.serial].told_to_stop:
                    self._tell_to_stop(process)

    def flush_events(self) -> None:
        """Tell what has happened."""
        if not self._events and not self._notes:
            return
        with self.lock:
            events, self._events = self._events, []
            notes, self._notes = self._notes, []
        for event in events:
            self.run.announce(event)
        for note in notes:
            self.run.options.logger.warning(note)

    def collapse(self) -> None:
        """Put all workers down for good; the consumer goes on in process."""
        with self.lock:
            self._collapsed = True
            for process in self.processes.values():
                process.kill()
            self.carry_out(self.state.handle(m.TargetSet(0)))
            for serial in list(self.state.workers):
                self.state.handle(m.Died(serial, m.Cause.OURS))
            self.lock.notify_all()

    def close(self, *, wait: bool) -> None:
        """End everything; with ``wait`` nothing is left on return. Without, it takes no lock and may run anywhere."""
        if os.getpid() != self._pid:
            return  # a forked child lets go of its copy
        self.closed = True
        self.collector.ring()
        if wait:
            self.collector.join()
            self.indices.clear()
            self.ready.clear()

    # Verbs, from any thread.

    def sync(self, first: Sequence[int] = ()) -> None:
        """Take over what the run wants now: target, prefetch, feeding."""
        with self.lock:
            if self._collapsed:
                return
            serials = tuple(process.serial for process in self.processes.values() if process.pid in first)
            for event in (
                m.FactorSet(self.run.prefetch or self._loader_factor),
                m.FeedSet(self.run.feeding),
                m.TargetSet(self.run.target, serials),
            ):
                self.carry_out(self.state.handle(event))

    def retire(self, pid: int) -> bool:
        """See `api.ElasticControl.retire`."""
        with self.lock:
            for process in self.processes.values():
                if process.pid == pid:
                    self.carry_out(self.state.handle(m.RetireAsked(process.serial)))
                    return True
        return False

    def kill(self, pid: int) -> bool:
        """See `api.ElasticControl.kill`."""
        with self.lock:
            for process in self.processes.values():
                if process.pid == pid:
                    process.kill()
                    return True
        return False

    def snapshots(self) -> list[WorkerSnapshot]:
        """See `api.ElasticControl.workers`."""
        now = time.monotonic()
        with self.lock:
            return [
                WorkerSnapshot(
                    pid=process.pid,
                    worker_id=process.worker_id,
                    phase=self.state.workers[serial].phase,
                    held_batches=self.state.holds(serial),
                    busy=self.state.holds(serial) > 0,
                    uss_bytes=process.uss_bytes,
                    uss_age_s=now - process.uss_read_at if process.uss_read_at is not None else None,
                )
                for serial, process in self.processes.items()
                if serial in self.state.workers
            ]

    def depths(self) -> Depths:
        """Count workers and batches."""
        with self.lock:
            phases = [worker.phase for worker in self.state.workers.values()]
            return Depths(
                phases.count(WorkerPhase.LIVE), phases.count(WorkerPhase.STARTING), self.state.ready, self.state.window
            )


def close_all() -> None:
    """End every pool of this process, and wait for it: before the interpreter takes threads and processes away."""
    for pool in list(_live_pools):
        pool.close(wait=True)
