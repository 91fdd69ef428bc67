"""What the trainer and its workers hold, read from /proc.

Covers memory of single processes: private, resident, peak. Limits and counters are `sensor`'s.

The kernel's side of it: Documentation/filesystems/proc.rst (status, smaps_rollup). A forked worker's RSS counts every
page it still shares with the trainer, so only what is private says what its exit would give back. ``smaps_rollup``
knows that exactly, and walks every page to know it: 17 ms for a worker forked from a trainer of 600 MiB (measured),
half a second for one of 20 GiB. So it is read seldom; in between, and before the first time, a worker's private memory
is what its anonymous memory has grown by since it was forked, at 0.03 ms a reading.
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
    """A worker at one moment, from which later moments are counted.

    Attributes:
        held_bytes: Its anonymous and shared memory then, what it shares with the trainer included.
        private_bytes: How much of that was private; ``None`` until it was read.
        file_bytes: The most file pages it ever had mapped.
        peak_bytes: The most private memory so far.
    """

    held_bytes: int
    private_bytes: int | None
    file_bytes: int
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

    def __init__(self, proc: Path, settled_batches: int) -> None:
        """Read below `proc`; a worker has shown what it writes to once it has finished `settled_batches`."""
        self._proc = proc
        self._settled_batches = settled_batches
        self._known: dict[int, _Worker] = {}
        self._last: tuple[WorkerReading, ...] = ()
        self._due_s = self._exact_due_s = float("-inf")
        self._turn = 0
        # Pages inherited from the trainer that workers have written to (reference counts): theirs now, though their
        # size did not change. Learned from one worker, assumed of all that were not read exactly.
        self._copied_bytes = 0

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
        self._read_exactly(now, [pid for pid in self._known if batches[pid] >= self._settled_batches])
        found = []
        for pid, finished in batches.items():
            sizes = _sizes(self._proc / str(pid) / "status")
            if "RssAnon" in sizes:
                private, peak = self._judge(pid, sizes)
                found.append(WorkerReading(pid, private, peak, finished))
        self._last = tuple(found)
        return self._last

    def _judge(self, pid: int, sizes: Mapping[str, int]) -> tuple[int, int]:
        held, file = _held(sizes), sizes.get("RssFile", 0)
        known = self._known.setdefault(pid, _Worker(held, None, file, 0))
        before = self._copied_bytes if known.private_bytes is None else known.private_bytes
        private = max(0, before + held - known.held_bytes)
        known.file_bytes = max(known.file_bytes, file)
        high_water = sizes.get("VmHWM", 0) - known.file_bytes - max(0, held - private)
        known.peak_bytes = max(known.peak_bytes, private, high_water)
        return private, known.peak_bytes

    def _read_exactly(self, now: float, pids: Sequence[int]) -> None:
        """Read the exact figure of one worker, when the last such reading has been paid for."""
        if not pids or now < self._exact_due_s:
            return
        self._turn += 1
        pid = pids[self._turn % len(pids)]
        sizes = _sizes(self._proc / str(pid) / "status")
        rollup = _sizes(self._proc / str(pid) / "smaps_rollup")
        self._exact_due_s = now + sizes.get("VmRSS", 0) * _ROLLUP_COST_S_PER_BYTE / _SHARE
        if "RssAnon" in sizes and "Private_Dirty" in rollup:
            known = self._known[pid]
            # Clean private pages are file pages: the kernel takes them back when it wants to.
            private = rollup["Private_Dirty"] + rollup.get("Private_Hugetlb", 0)
            if known.private_bytes is None:
                self._copied_bytes = max(0, private - (_held(sizes) - known.held_bytes))
            known.private_bytes, known.held_bytes = private, _held(sizes)


def _held(sizes: Mapping[str, int]) -> int:
    return sizes["RssAnon"] + sizes.get("RssShmem", 0)


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
