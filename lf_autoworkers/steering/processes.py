"""What the trainer and its workers hold, read from /proc.

Covers memory of single processes: private, resident, peak. Limits and counters are `sensor`'s.

The kernel's side of it: Documentation/filesystems/proc.rst (status, smaps_rollup). A forked worker's RSS counts every
page it still shares with the trainer, so only what is private says what its exit would give back. ``smaps_rollup``
knows that exactly, and walks every page to know it: 17 ms for a worker forked from a trainer of 600 MiB (measured),
half a second for one of 20 GiB. So it is read seldom; in between, and before the first time, a worker's private memory
is what its anonymous memory has grown by, at 0.03 ms a reading.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lf_autoworkers.steering.readings import WorkerReading

# All that is read of workers may cost this share of one core.
_SHARE = 0.002
_STATUS_COST_S = 0.00003
_ROLLUP_COST_S_PER_BYTE = 0.017 / 600e6


@dataclass(slots=True)
class _Worker:
    """A worker at one moment (`private` bytes of `held`), from which later moments are counted."""

    private_bytes: int
    held_bytes: int
    most_shared_bytes: int
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
    """The loader's workers."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._known: dict[int, _Worker] = {}
        self._last: tuple[WorkerReading, ...] = ()
        self._due_s = float("-inf")
        self._rollup_due_s: float | None = None
        self._turn = 0

    def read(self, now: float, batches: Mapping[int, int]) -> tuple[WorkerReading, ...]:
        """Return a reading of each of the pids in `batches` whose process is still there.

        Args:
            now: Seconds of a monotonic clock.
            batches: Batches each worker has finished.
        """
        same = batches.keys() == {worker.pid for worker in self._last}
        if same and now < self._due_s:
            return tuple(dataclasses.replace(worker, batches=batches[worker.pid]) for worker in self._last)
        self._due_s = now + len(batches) * _STATUS_COST_S / _SHARE
        self._known = {pid: worker for pid, worker in self._known.items() if pid in batches}
        found, largest = [], 0
        for pid, finished in batches.items():
            sizes = _sizes(self._proc / str(pid) / "status")
            if "RssAnon" in sizes:
                largest = max(largest, sizes.get("VmRSS", 0))
                private, peak = self._judge(pid, sizes)
                found.append(WorkerReading(pid, private, peak, finished))
        self._roll_up(now, sorted(self._known), largest)
        self._last = tuple(found)
        return self._last

    def _judge(self, pid: int, sizes: Mapping[str, int]) -> tuple[int, int]:
        held = sizes["RssAnon"] + sizes.get("RssShmem", 0)
        resident = sizes.get("VmRSS", held)
        known = self._known.setdefault(pid, _Worker(0, held, resident, 0))
        private = max(0, known.private_bytes + held - known.held_bytes)
        known.most_shared_bytes = max(known.most_shared_bytes, resident - private)
        known.peak_bytes = max(known.peak_bytes, private, sizes.get("VmHWM", 0) - known.most_shared_bytes)
        return private, known.peak_bytes

    def _roll_up(self, now: float, pids: Sequence[int], largest: int) -> None:
        """Read the exact figure of one worker, when the last such reading has been paid for."""
        pause_s = largest * _ROLLUP_COST_S_PER_BYTE / _SHARE
        if self._rollup_due_s is None and pids:
            self._rollup_due_s = now + pause_s
        if not pids or self._rollup_due_s is None or now < self._rollup_due_s:
            return
        self._rollup_due_s = now + pause_s
        self._turn += 1
        pid = pids[self._turn % len(pids)]
        began = _sizes(self._proc / str(pid) / "status")
        rollup = _sizes(self._proc / str(pid) / "smaps_rollup")
        if "RssAnon" in began and "Private_Dirty" in rollup:
            known = self._known[pid]
            # Clean private pages are file pages: the kernel takes them back when it wants to.
            known.private_bytes = rollup["Private_Dirty"] + rollup.get("Private_Hugetlb", 0)
            known.held_bytes = began["RssAnon"] + began.get("RssShmem", 0)


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
