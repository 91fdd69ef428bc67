"""What the guard sees at one moment, as frozen facts.

Covers the shape of one reading and of the loader's state. `sensor` takes readings, `guard` judges them, `controller`
asks the loader. What could not be read is ``None``, never 0: a guard that takes "cannot see" for "nothing there" fails
in the worst direction.
"""

from __future__ import annotations

from dataclasses import dataclass

from lf_autoworkers.hardware.facts import MemoryLevel, ShmFacts


@dataclass(frozen=True, slots=True)
class WorkerReading:
    """The memory of one loader worker.

    Attributes:
        pid: Its process id.
        private_bytes: Memory that goes back to the machine when it exits: private pages of
            ``/proc/PID/smaps_rollup``. A forked worker's RSS also counts every page it still shares with the trainer.
        peak_bytes: The most private memory it ever held: its ``VmHWM`` less the most it shared. Sees peaks between
            two readings, as while a picture is decoded.
        batches: Batches it has finished.
    """

    pid: int
    private_bytes: int | None
    peak_bytes: int | None
    batches: int


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at everything that can end the run for lack of memory.

    Attributes:
        at_s: When it was taken, in seconds of a monotonic clock.
        levels: Every limit above this process with what is used of it: each cgroup level, the host
            (``MemTotal``, used = total - ``MemAvailable``), ``LF_AUTOWORKERS_MEMORY_LIMIT``. Reclaimable file cache is
            not use.
        shm: /dev/shm; ``None`` where there is none.
        psi_some_percent: Share of the last 10 s in which some task waited for memory, 0 to 100.
        psi_full_percent: Share of the last 10 s in which every task did.
        oom_kills: Kills by the kernel's OOM killer so far, over all levels.
        limit_hits: Times a level's limit was reached so far, over all levels (reclaim helped or not).
        trainer_bytes: Memory of this process without file pages (``RssAnon`` + ``RssShmem``).
        trainer_peak_bytes: The most of it since the first reading. Peaks between readings count (``VmHWM`` rose);
            one from before, as when the model was loaded, does not: it will not come again.
        workers: The loader's workers, those whose process could be read.
    """

    at_s: float
    levels: tuple[MemoryLevel, ...] = ()
    shm: ShmFacts | None = None
    psi_some_percent: float | None = None
    psi_full_percent: float | None = None
    oom_kills: int | None = None
    limit_hits: int | None = None
    trainer_bytes: int | None = None
    trainer_peak_bytes: int | None = None
    workers: tuple[WorkerReading, ...] = ()

    @property
    def seen(self) -> tuple[MemoryLevel, ...]:
        """The levels whose headroom is known; empty means blind."""
        return tuple(level for level in self.levels if level.headroom_bytes is not None)

    @property
    def tightest(self) -> MemoryLevel | None:
        """The level with the fewest bytes left; ``None`` when blind."""
        return min(self.seen, key=lambda level: level.headroom_bytes or 0, default=None)


@dataclass(frozen=True, slots=True)
class LoaderView:
    """The loader as the guard needs it, at the moment of a reading.

    Attributes:
        wanted: Workers asked for by the plan or the environment: the ceiling the guard comes back to.
        target: Workers it was last told to have.
        live: Pids of its running workers, retiring ones included.
        prefetch: Batches it may have in flight per worker.
        wanted_prefetch: The same as the plan or the user set it.
        batch_bytes: Bytes of the largest batch seen; before the first, what the plan expects; ``None`` if unknown.
        steps: Training steps finished, those before a resume included.
        warm: Whether this process has finished one, so that the trainer has shown what a step takes.
        elastic: Whether workers can leave at any moment; else a change waits for the next epoch, and a killed worker
            would end the run.
    """

    wanted: int
    target: int
    live: tuple[int, ...] = ()
    prefetch: int = 2
    wanted_prefetch: int = 2
    batch_bytes: int | None = None
    steps: int = 0
    warm: bool = False
    elastic: bool = True
