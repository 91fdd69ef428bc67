"""What the trainer and its workers hold, read from /proc.

Covers memory of single processes: private, resident, peak. Limits and counters are `sensor`'s.

The kernel's side of it: Documentation/filesystems/proc.rst (status, smaps_rollup). A forked worker's RSS counts every
page it still shares with the trainer, so only private pages say what its exit would give back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lf_autoworkers.steering.readings import WorkerReading

# Measured: one smaps_rollup 0.17 ms, one status 0.03 ms. All workers together may cost 0.2 % of one core.
_WORKER_COST_S = 0.0002
_WORKERS_SHARE = 0.002
_WORKERS_SOONEST_S = 0.5


@dataclass(slots=True)
class _Worker:
    private_bytes: int
    resident_bytes: int
    shared_bytes: int
    peak_bytes: int


class TrainerMemory:
    """This process: what it holds now and the most it held since the first reading, without file pages."""

    def __init__(self, proc: Path, pid: int) -> None:
        self._path = proc / str(pid) / "status"
        self._high_water: int | None = None
        self._peak: int | None = None

    def read(self) -> tuple[int | None, int | None]:
        """Return bytes held and peak bytes; ``None`` for what cannot be read."""
        sizes = _sizes(self._path)
        anonymous, shared = sizes.get("RssAnon"), sizes.get("RssShmem")
        if anonymous is None or shared is None:
            return sizes.get("VmRSS"), self._peak
        held = anonymous + shared
        self._peak = max(held, self._peak or 0)
        high_water = sizes.get("VmHWM")
        if high_water is not None:
            # A peak from before, as when the model was loaded, does not come again: only a rise since counts.
            if self._high_water is not None and high_water > self._high_water:
                self._peak = max(self._peak, high_water - sizes.get("RssFile", 0))
            self._high_water = high_water
        return held, self._peak


class WorkersMemory:
    """The loader's workers: private pages now and then, in between moved along with what is resident."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._known: dict[int, _Worker] = {}
        self._full_s = float("-inf")

    def read(self, now: float, batches: Mapping[int, int]) -> tuple[WorkerReading, ...]:
        """Return a reading of each of the pids in `batches` whose process is still there.

        Args:
            now: Seconds of a monotonic clock.
            batches: Batches each worker has finished.
        """
        pause_s = max(_WORKERS_SOONEST_S, len(batches) * _WORKER_COST_S / _WORKERS_SHARE)
        full = now - self._full_s >= pause_s
        if full:
            self._full_s = now
        self._known = {pid: worker for pid, worker in self._known.items() if pid in batches}
        found = []
        for pid, finished in batches.items():
            worker = self._full(pid) if full or pid not in self._known else self._moved(pid)
            if worker is not None:
                found.append(WorkerReading(pid, worker.private_bytes, worker.peak_bytes, finished))
        return tuple(found)

    def _full(self, pid: int) -> _Worker | None:
        rollup = _sizes(self._proc / str(pid) / "smaps_rollup")
        if "Private_Dirty" not in rollup or "Rss" not in rollup:
            self._known.pop(pid, None)
            return None
        # Clean private pages are file pages: the kernel takes them back when it wants to.
        private = rollup["Private_Dirty"] + rollup.get("Private_Hugetlb", 0)
        before = self._known.get(pid)
        shared = max(rollup["Rss"] - private, 0 if before is None else before.shared_bytes)
        high_water = _sizes(self._proc / str(pid) / "status").get("VmHWM", 0)
        peak = max(private, high_water - shared, 0 if before is None else before.peak_bytes)
        self._known[pid] = worker = _Worker(private, rollup["Rss"], shared, peak)
        return worker

    def _moved(self, pid: int) -> _Worker | None:
        worker = self._known[pid]
        resident = _resident_bytes(self._proc / str(pid) / "statm")
        if resident is None:
            return None
        private = max(0, worker.private_bytes + resident - worker.resident_bytes)
        return _Worker(private, resident, worker.shared_bytes, max(private, worker.peak_bytes))


def _sizes(path: Path) -> dict[str, int]:
    """Return the lines of the form ``Name:  123 kB`` in bytes; empty where the file cannot be read."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return {}
    sizes = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if value.endswith(" kB"):
            number = value[:-3].strip()
            if number.isdigit():
                sizes[key] = int(number) * 1024
    return sizes


def _resident_bytes(path: Path) -> int | None:
    try:
        return int(path.read_text().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return None
