"""PyTorch's own loaders under the guard: what is decided takes effect with the next epoch.

Covers every loader that is not elastic (streaming, ``LF_AUTOWORKERS_ELASTIC=off``, a torch we do not know): worker
count and prefetch of the Trainer's loader are changed before it starts its next workers. A worker that is killed ends
such a run, so none is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lf_autoworkers.elastic.api import LoaderEvent, LoaderStats, WorkerPhase, WorkerSnapshot

_WORKER_NAME = "pt_data_worker"


class EpochLoader:
    """The verbs of an elastic loader, kept until the next epoch or declined."""

    def __init__(self, workers: int, proc: Path = Path("/proc")) -> None:
        """Start with what the loader was built with."""
        self.may_start: Callable[[], bool] | None = None
        self._target = workers
        self._prefetch: int | None = None
        self._proc = proc
        self._changed = False

    @property
    def target(self) -> int:
        """Workers wanted from the next epoch on."""
        return self._target

    def resize(self, workers: int, *, first: Sequence[int] = ()) -> int:
        """Keep the count for the next epoch; never 0, which would change what a worker's shard is."""
        self._target, self._changed = max(1, workers), True
        return self._target

    def set_prefetch(self, batches_per_worker: int | None) -> None:
        """Keep the prefetch for the next epoch."""
        self._prefetch, self._changed = batches_per_worker, True

    def apply(self, loader: Any) -> None:
        """Give a loader that is about to start an epoch what was decided since; persistent workers are let go."""
        if not self._changed:
            return
        self._changed = False
        base = getattr(loader, "base_dataloader", loader)
        base.num_workers = self._target
        base.prefetch_factor = self._prefetch or base.prefetch_factor
        base._iterator = None

    def workers(self) -> tuple[WorkerSnapshot, ...]:
        """Return this process's children that are loader workers, whoever started them."""
        found = []
        for listed in (self._proc / str(os.getpid()) / "task").glob("*/children"):
            try:
                pids = [int(word) for word in listed.read_text().split()]
            except (OSError, ValueError):
                continue
            found += [pid for pid in pids if self._is_worker(pid)]
        return tuple(
            WorkerSnapshot(pid, place, WorkerPhase.LIVE, 0, False, None, None) for place, pid in enumerate(found)
        )

    def _is_worker(self, pid: int) -> bool:
        try:
            return (self._proc / str(pid) / "comm").read_text().strip() == _WORKER_NAME
        except OSError:
            return False

    def stats(self) -> LoaderStats:
        """Return the target; this loader measures nothing."""
        return LoaderStats(self._target, len(self.workers()), 0, 0, 0, 0, 0.0, None, 0, 0, 0, 0, ())

    def retire(self, pid: int) -> bool:
        """Decline: PyTorch's loader cannot lose a worker."""
        return False

    def kill(self, pid: int) -> bool:
        """Decline: the run would end."""
        return False

    def feed(self, on: bool) -> None:
        """Decline: PyTorch's loader reads ahead as it likes."""

    def subscribe(self, listener: Callable[[LoaderEvent], None]) -> Callable[[], None]:
        """Return at once: this loader announces nothing."""
        return lambda: None
