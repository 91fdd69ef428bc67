"""What belongs to a run and not to one iterator: the target, the verbs, the totals, who listens, what is logged.

`ElasticRun` implements `api.ElasticControl` over the pools of all live iterators. Does NOT move batches (`pool.py`).
"""

from __future__ import annotations

import signal
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lf_autoworkers.elastic.api import (
    BatchCost,
    BatchUnsent,
    ElasticOptions,
    LoaderEvent,
    LoaderStats,
    TargetChanged,
    WorkerLost,
    WorkerSnapshot,
)
from lf_autoworkers.elastic.telling import describe

if TYPE_CHECKING:
    from lf_autoworkers.elastic.pool import Pool

#: Costs kept: enough for a 99th percentile, little enough to follow a dataset that changes.
COSTS_KEPT = 256
#: Batches to measure before a hang time-out is derived from them, and how: a codec or a network file system that never
#: returns must stand out from one long video, so 20 times the 99th percentile and at least a minute.
HANG_AFTER_BATCHES, HANG_FACTOR, HANG_FLOOR_S = 20, 20.0, 60.0

#: A full machine can make every batch unsendable; these of them are told.
UNSENT_SAID = (1, 10, 100, 1000, 10000)


class ElasticRun:
    """The worker count of a training run and everything done with it; see `api.ElasticControl` for the verbs.

    Args:
        workers: Workers wanted at first, 0 (in process) and up.
        options: What does not change while the run lasts.
    """

    def __init__(self, workers: int, options: ElasticOptions | None = None) -> None:
        self.options = options or ElasticOptions()
        self.may_start: Callable[[], bool] | None = None
        self._target = self._clamp(workers)
        self._prefetch: int | None = self.options.prefetch_factor
        self._feeding = True
        self._pools: weakref.WeakSet[Pool] = weakref.WeakSet()
        self._listeners: list[Callable[[LoaderEvent], None]] = []
        self._lock = threading.RLock()
        self._costs: deque[BatchCost] = deque(maxlen=COSTS_KEPT)
        self._delivered = self._in_process = self._lost = self._redone = self._unsent = 0
        self._wait_s = 0.0
        self._last_wait_s: float | None = None
        self._oom_kills_seen = self._read_oom_kills()

    @property
    def target(self) -> int:
        """Workers wanted per live iterator; 0 is in-process."""
        return self._target

    @property
    def feeding(self) -> bool:
        """Whether batches are read ahead."""
        return self._feeding

    @property
    def prefetch(self) -> int | None:
        """Batches read ahead per worker; None is the loader's own number."""
        return self._prefetch

    def resize(self, workers: int, *, first: Sequence[int] = ()) -> int:
        """Want ``workers`` from now on (clamped to 0..ceiling, returned); a shrink lets the ``first`` pids go first."""
        with self._lock:
            before, self._target = self._target, self._clamp(workers)
            after = self._target
        for pool in self._live_pools():
            pool.sync(first)
        if before != after:
            self.announce(TargetChanged(before, after))
        return after

    def workers(self) -> tuple[WorkerSnapshot, ...]:
        """Every worker process of every live iterator."""
        return tuple(snapshot for pool in self._live_pools() for snapshot in pool.snapshots())

    def stats(self) -> LoaderStats:
        """Totals and present state."""
        depths = [pool.depths() for pool in self._live_pools()]
        with self._lock:
            return LoaderStats(
                target=self._target,
                live_workers=sum(depth.live for depth in depths),
                starting_workers=sum(depth.starting for depth in depths),
                ready_batches=sum(depth.ready for depth in depths),
                window=sum(depth.window for depth in depths),
                delivered=self._delivered,
                wait_s=self._wait_s,
                last_wait_s=self._last_wait_s,
                lost_workers=self._lost,
                redone_batches=self._redone,
                in_process_batches=self._in_process,
                unsent_batches=self._unsent,
                costs=tuple(self._costs),
            )

    def retire(self, pid: int) -> bool:
        """Let one worker deliver what it holds and leave; replaced while the target asks for it. False: unknown pid."""
        return any(pool.retire(pid) for pool in self._live_pools())

    def kill(self, pid: int) -> bool:
        """SIGKILL one worker now; its batches are done again and blamed on nobody. False: unknown pid."""
        return any(pool.kill(pid) for pool in self._live_pools())

    def set_prefetch(self, batches_per_worker: int | None) -> None:
        """Read ahead this many batches per worker (1 and up) from now on; None returns to the loader's own number."""
        if batches_per_worker is not None and batches_per_worker < 1:
            raise ValueError(f"batches_per_worker is {batches_per_worker}; use 1 or more, or feed(False)")
        with self._lock:
            self._prefetch = batches_per_worker
        for pool in self._live_pools():
            pool.sync()

    def feed(self, on: bool) -> None:
        """With False nothing is read ahead: only the batch the consumer waits for is given out. True ends that."""
        with self._lock:
            self._feeding = on
        for pool in self._live_pools():
            pool.sync()

    def subscribe(self, listener: Callable[[LoaderEvent], None]) -> Callable[[], None]:
        """Call ``listener`` for each event, on the loader's threads, outside its locks; returns what ends that."""
        with self._lock:
            self._listeners = [*self._listeners, listener]

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = [other for other in self._listeners if other is not listener]

        return unsubscribe

    # What follows is for the pools.

    def adopt(self, pool: Pool) -> None:
        """Count a new iterator's pool in."""
        with self._lock:
            self._pools.add(pool)

    def note_delivery(self, wait_s: float, *, in_process: bool) -> None:
        """Count a batch that went to the consumer after ``wait_s`` seconds."""
        with self._lock:
            self._delivered += 1
            self._in_process += in_process
            self._wait_s += wait_s
            self._last_wait_s = wait_s

    def note_cost(self, cost: BatchCost) -> None:
        """Keep what a batch cost."""
        with self._lock:
            self._costs.append(cost)

    def largest_batch_bytes(self) -> int | None:
        """Return the size of the largest batch among the newest; None before the first."""
        with self._lock:
            return max((cost.batch_bytes for cost in self._costs if cost.batch_bytes is not None), default=None)

    def hang_timeout_s(self) -> float | None:
        """Return the seconds on one batch that count as a hang; None while that is off."""
        asked = self.options.hang_timeout_s
        if asked != "auto":
            return float(asked) if asked is not None else None
        with self._lock:
            walls = sorted(cost.wall_s for cost in self._costs)
        if len(walls) < HANG_AFTER_BATCHES:
            return None
        return max(HANG_FLOOR_S, HANG_FACTOR * walls[min(len(walls) - 1, int(0.99 * len(walls)))])

    def oom_verdict(self, signal_number: int | None) -> tuple[bool | None, int | None, int | None]:
        """Say whether a death was the OOM killer's work: (verdict, counter before, counter now); None is unknown.

        A rise of the counter explains as many SIGKILLs as it rose by.
        """
        with self._lock:
            before, after = self._oom_kills_seen, self._read_oom_kills()
            if before is None or after is None:
                self._oom_kills_seen = after
                return None, before, after
            if signal_number == signal.SIGKILL and after > before:
                self._oom_kills_seen = before + 1
                return True, before, after
            return False, before, after

    def announce(self, event: LoaderEvent) -> None:
        """Count, log and pass on one event. Never call this with a pool's lock held."""
        with self._lock:
            if isinstance(event, WorkerLost):
                self._lost += 1
                self._redone += event.redone_batches
            elif isinstance(event, BatchUnsent):
                self._unsent += 1
            listeners, unsent = self._listeners, self._unsent
        line = describe(event)
        if line and not (isinstance(event, BatchUnsent) and unsent not in UNSENT_SAID):
            self.options.logger.warning(line)
        for listener in listeners:
            try:
                listener(event)
            except Exception:
                self.options.logger.exception("a listener of the elastic loader failed; the run goes on")

    def _clamp(self, workers: int) -> int:
        ceiling = self.options.ceiling
        return max(0, workers if ceiling is None else min(workers, ceiling))

    def _live_pools(self) -> list[Pool]:
        with self._lock:
            return [pool for pool in self._pools if not pool.closed]

    def _read_oom_kills(self) -> int | None:
        return self.options.oom_kills() if self.options.oom_kills else None
