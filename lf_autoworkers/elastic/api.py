"""What others may know of the elastic loader: facts it reports, events it announces, verbs it obeys.

Covers the vocabulary only, and imports neither torch nor anything of ours, so that whoever steers can be written and
tested against it without a loader. Does NOT hold the loader (`pool.py`, `iterator.py`) nor the object that implements
`ElasticControl` (`run.py`).
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

LOGGER_NAME = "lf_autoworkers.elastic"


class WorkerPhase(enum.Enum):
    """Where a worker is in its life."""

    STARTING = "starting"  # forked, has not said hello; gets no batch
    LIVE = "live"
    RETIRING = "retiring"  # gets no new batch; leaves once it has delivered what it holds


@dataclass(frozen=True)
class WorkerSnapshot:
    """One worker process at one moment.

    ``worker_id`` is what ``torch.utils.data.get_worker_info().id`` says inside; a replacement takes the free id.
    ``held_batches`` is 0 to 2; ``busy`` means at least one. ``uss_bytes`` is memory private to the process, as the
    worker itself last read it from ``/proc/self/smaps_rollup`` (after a batch, at most every 2 s and for 0.5 % of its
    time); None before that.
    ``uss_age_s`` is how long ago that was, in seconds.
    """

    pid: int
    worker_id: int
    phase: WorkerPhase
    held_batches: int
    busy: bool
    uss_bytes: int | None
    uss_age_s: float | None


@dataclass(frozen=True)
class BatchCost:
    """What one batch cost where it was made; ``pid`` is None when the main process made it itself.

    ``batch_cpu_seconds`` and ``wall_s`` cover fetching and collating, not the transport. ``batch_bytes`` is the size of
    its tensors, arrays and other pickled content; None in process, where nothing is sent and so nothing is counted.
    """

    batch: int
    batch_cpu_seconds: float
    wall_s: float
    batch_bytes: int | None
    pid: int | None


@dataclass(frozen=True)
class LoaderStats:
    """Totals since the run began, over all its iterators, and the state of those alive now.

    ``wait_s`` is the time the consumer spent inside ``next()``, in-process loading included: near 0 the workers are
    faster than the consumer, near the run's wall time it starves. ``ready_batches`` of at most ``window`` wait to be
    taken: near 0 the consumer is about to wait, at ``window`` the workers idle. ``costs`` are the newest 256.
    """

    target: int
    live_workers: int
    starting_workers: int
    ready_batches: int
    window: int
    delivered: int
    wait_s: float
    last_wait_s: float | None
    lost_workers: int
    redone_batches: int
    in_process_batches: int
    unsent_batches: int
    costs: Sequence[BatchCost]


@dataclass(frozen=True)
class WorkerStarted:
    """A worker said hello after ``startup_s`` seconds."""

    pid: int
    worker_id: int
    startup_s: float


@dataclass(frozen=True)
class WorkerRetired:
    """A worker left as it was asked to, holding nothing."""

    pid: int
    worker_id: int


@dataclass(frozen=True)
class WorkerLost:
    """A worker died; what it held (``redone_batches``) is done again, in order.

    ``signal`` is None if it exited by itself with ``exit_code``; both are None if someone else reaped the process.
    ``by_us`` is true for `ElasticControl.kill` and for hang and start time-outs. ``oom_killed`` is true where the
    counter behind ``oom_kills`` rose and the death was a SIGKILL, None where there is no counter.
    """

    pid: int
    worker_id: int
    signal: int | None
    exit_code: int | None
    by_us: bool
    oom_killed: bool | None
    oom_kills_before: int | None
    oom_kills_after: int | None
    redone_batches: int
    live_workers: int
    uss_bytes: int | None


@dataclass(frozen=True)
class WorkerHung:
    """A worker has been on one batch for ``elapsed_s`` seconds; ``killed`` only the first time for that batch."""

    pid: int
    worker_id: int
    indices: str
    elapsed_s: float
    killed: bool


@dataclass(frozen=True)
class BatchUnsent:
    """A worker made a batch it could not send (``reason``); it is done again, through the pipe or in process."""

    pid: int
    batch: int
    reason: str


@dataclass(frozen=True)
class TargetChanged:
    """The number of workers wanted changed."""

    before: int
    after: int


LoaderEvent: TypeAlias = WorkerStarted | WorkerRetired | WorkerLost | WorkerHung | BatchUnsent | TargetChanged


@dataclass(frozen=True)
class ElasticOptions:
    """What does not change while a run lasts.

    Args:
        ceiling: Most workers `ElasticControl.resize` may ask for; None is no ceiling.
        prefetch_factor: Batches read ahead per worker; None takes the loader's own, or 2 (PyTorch's default).
        oom_kills: Reads a counter of kernel OOM kills that could have hit a worker (cgroup ``oom_kill``); None: no such
            counter. Called from the loader's threads after a death, so it must be quick.
        memory_limit_bytes: Reads the limit to name in the message of a batch that cannot fit; None: unknown.
        hang_timeout_s: Seconds on one batch after which its worker is killed and the batch done again. ``"auto"``: off
            until 20 batches were measured, then 20 times the 99th percentile and at least 60 s. None: off.
        hello_timeout_s: Seconds a new worker may take to say hello before it is given up (a fork of a process with
            threads can deadlock). Five times as long under spawn and forkserver, which import everything anew.
        logger: Where warnings go.
    """

    ceiling: int | None = None
    prefetch_factor: int | None = None
    oom_kills: Callable[[], int | None] | None = None
    memory_limit_bytes: Callable[[], int | None] | None = None
    hang_timeout_s: float | str | None = "auto"
    hello_timeout_s: float = 60.0
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger(LOGGER_NAME))


class ElasticControl(Protocol):
    """The verbs of a run's loaders. All are safe to call from any thread, and none waits for a worker.

    The target belongs to the run: it outlives epochs, rebuilt loaders and iterators, and holds for each live iterator.
    """

    may_start: Callable[[], bool] | None
    """Asked on the consumer's thread before each single worker is started; False postpones it (asked again later)."""

    @property
    def target(self) -> int:
        """Workers wanted per live iterator; 0 is in-process."""

    def resize(self, workers: int, *, first: Sequence[int] = ()) -> int:
        """Want ``workers`` from now on (clamped to 0..ceiling, returned); a shrink lets the ``first`` pids go first."""

    def workers(self) -> tuple[WorkerSnapshot, ...]:
        """Every worker process of every live iterator."""

    def stats(self) -> LoaderStats:
        """Totals and present state."""

    def retire(self, pid: int) -> bool:
        """Let one worker deliver what it holds and leave; replaced while the target asks for it. False: unknown pid."""

    def kill(self, pid: int) -> bool:
        """SIGKILL one worker now; its batches are done again and blamed on nobody. False: unknown pid."""

    def set_prefetch(self, batches_per_worker: int | None) -> None:
        """Read ahead this many batches per worker (1 and up) from now on; None returns to the loader's own number."""

    def feed(self, on: bool) -> None:
        """With False nothing is read ahead: only the batch the consumer waits for is given out. True ends that."""

    def subscribe(self, listener: Callable[[LoaderEvent], None]) -> Callable[[], None]:
        """Call ``listener`` for each event; returns what ends that.

        It runs on the loader's threads and holds up new workers meanwhile: it must return soon and wait for nobody.
        """
