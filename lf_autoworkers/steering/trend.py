"""How fast memory grows and what a worker really costs, from a row of readings.

Covers the memory of the policy: growth of each level, peak and leak of each worker, the trainer's own peak. Decides
nothing: `danger` and `guard` do.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from lf_autoworkers.steering.limits import GuardLimits
from lf_autoworkers.steering.readings import LoaderView, Reading


class Growth:
    """Bytes used per level over the last `growth_long_s` seconds."""

    def __init__(self, limits: GuardLimits) -> None:
        self._limits = limits
        self._points: dict[str, deque[tuple[float, int]]] = {}

    def add(self, reading: Reading, *, explained: bool) -> None:
        """Remember one reading; forget what is older than the longest window.

        Args:
            reading: The newest one.
            explained: Whether a worker is on its way to its known peak: growth that ends by itself, so that the slope
                begins anew after it.
        """
        if explained:
            self._points.clear()
        for level in reading.seen:
            points = self._points.setdefault(level.source, deque())
            points.append((reading.at_s, level.used_bytes or 0))
            while len(points) > 2 and points[1][0] <= reading.at_s - self._limits.growth_long_s:
                points.popleft()

    def burst(self, source: str) -> float:
        """Bytes a second at this very moment; 0 when it shrinks, has just stopped or nothing is known yet.

        One jump (a picture decoded, the trainer's forward pass) is over by the next reading and is no burst.
        """
        points = self._points.get(source)
        if points is None or len(points) < 2:
            return 0.0
        (before_s, before_bytes), (last_s, last_bytes) = points[-2], points[-1]
        if not 0 < last_s - before_s <= self._limits.growth_span_s:
            return 0.0  # too long ago to tell a jump from a slope
        just_now = (last_bytes - before_bytes) / (last_s - before_s)
        return max(0.0, min(just_now, self._slope(source, self._limits.growth_span_s)))

    def steady(self, source: str) -> float:
        """Bytes a second that lasted and still last: over the short window or the long one, never negative.

        Growth that has ended within the window, as when a neighbour took a block of memory at once, is none.
        """
        short, long = self._limits.growth_short_s, self._limits.growth_long_s
        recent = self._slope(source, short)
        return max(min(recent, self._slope(source, short / 2)), min(recent, self._slope(source, long)))

    def _slope(self, source: str, window_s: float) -> float:
        """Slope over a window; 0 while the use stays below a height that was already survived before it."""
        points = self._points.get(source)
        if not points:
            return 0.0
        last_s, last_bytes = points[-1]
        before = [point for point in points if point[0] <= last_s - window_s]
        if before and last_bytes <= max(used for _, used in before):
            return 0.0
        first_s, first_bytes = before[-1] if before else points[0]
        enough = last_s - first_s >= window_s / 2
        return max(0.0, (last_bytes - first_bytes) / (last_s - first_s)) if enough else 0.0


@dataclass(slots=True)
class _Samples:
    """Private memory of one worker: the first samples after it settled, and the last ones."""

    first: list[int] = field(default_factory=list)
    last: deque[int] = field(default_factory=deque)
    sampled_s: float = float("-inf")


class WorkerCosts:
    """What the running workers take, and what the trainer itself took at its worst."""

    def __init__(self, limits: GuardLimits, prior_bytes: int | None) -> None:
        self._limits = limits
        self._prior_bytes = limits.unknown_worker_bytes if prior_bytes is None else prior_bytes
        self._samples: dict[int, _Samples] = {}
        self._peaks: dict[int, tuple[float, int]] = {}
        self._typical: float | None = None
        self._batches: dict[int, int] = {}
        self._trainer_peak = 0

    def add(self, reading: Reading) -> None:
        """Remember one reading."""
        for worker in reading.workers:
            self._batches[worker.pid] = worker.batches
            if worker.private_bytes is None or worker.batches < self._limits.settled_batches:
                continue
            peak = max(worker.private_bytes, worker.peak_bytes or 0, self._peaks.get(worker.pid, (0.0, 0))[1])
            self._peaks[worker.pid] = (reading.at_s, peak)
            last = worker.private_bytes if self._typical is None else self._typical
            self._typical = last + self._limits.typical_weight * (worker.private_bytes - last)
            self._sample(worker.pid, worker.private_bytes, reading.at_s)
        self._peaks = {
            pid: seen for pid, seen in self._peaks.items() if seen[0] >= reading.at_s - self._limits.incident_memory_s
        }
        self._samples = {pid: s for pid, s in self._samples.items() if pid in self._peaks}
        self._trainer_peak = max(self._trainer_peak, reading.trainer_bytes or 0, reading.trainer_peak_bytes or 0)

    def _sample(self, pid: int, private_bytes: int, at_s: float) -> None:
        samples = self._samples.setdefault(pid, _Samples())
        if at_s - samples.sampled_s < self._limits.leak_sample_s:
            return
        samples.sampled_s = at_s
        if len(samples.first) < self._limits.leak_samples:
            samples.first.append(private_bytes)
            return
        samples.last.append(private_bytes)
        if len(samples.last) > self._limits.leak_samples:
            samples.last.popleft()

    @property
    def measured(self) -> bool:
        """Whether any worker has finished enough batches to know its cost."""
        return bool(self._peaks)

    @property
    def worker_bytes(self) -> int:
        """The dearest worker's private peak in bytes; what the plan expects until one is known."""
        return max((peak for _, peak in self._peaks.values()), default=self._prior_bytes)

    def workers_to_come_bytes(self, reading: Reading, view: LoaderView) -> int:
        """Bytes the running workers and one more may yet take together, beside what they hold.

        Each is taken to hold what is typical, and as many as the square root of their number to be at the peak of the
        dearest one at the same moment: workers decode at different times. Before any has shown its cost, all of them.
        """
        count = len(view.live) + 1
        held = sum(worker.private_bytes or 0 for worker in reading.workers if worker.pid in view.live)
        if not self.measured:
            each = max(self._limits.unmeasured_bytes, int(self._limits.unmeasured_factor * self._prior_bytes))
            return max(each, count * each - held)
        young = sum(self._batches.values()) < self._limits.young_batches
        peak = int(self.worker_bytes * (self._limits.young_factor if young else 1.0))
        typical = min(int(self._typical or 0), peak)
        at_peak = math.ceil(math.sqrt(count))
        return max(typical, count * typical + at_peak * (peak - typical) - held)

    def starting(self, reading: Reading, view: LoaderView) -> bool:
        """Whether a running worker is still on its way to the peak it is expected to reach: growth with a known end."""
        young = {worker.pid: worker for worker in reading.workers if worker.batches < self._limits.settled_batches}
        return any(pid in young and (young[pid].private_bytes or 0) < self.worker_bytes for pid in view.live)

    def trainer_reserve_bytes(self, reading: Reading, view: LoaderView) -> int:
        """Bytes the trainer may yet take: back to its own peak; as much again as it holds before its first step."""
        now = reading.trainer_bytes or 0
        return max(0, self._trainer_peak - now) if view.warm else now

    def leak_bytes(self, pid: int) -> int:
        """Bytes by which a worker's low tide has risen above the high tide of its beginning; 0 if it has not."""
        samples = self._samples.get(pid)
        if samples is None or len(samples.last) < self._limits.leak_samples:
            return 0
        return max(0, min(samples.last) - max(samples.first))

    def leaks(self, pid: int, batch_bytes: int | None) -> bool:
        """Whether that rise is a leak: more than a fixed size and more than several batches."""
        return self.leak_bytes(pid) > max(self._limits.leak_bytes, self._limits.leak_batches * (batch_bytes or 0))

    def largest(self, reading: Reading, pids: tuple[int, ...]) -> int | None:
        """The pid whose exit gives back most: the largest private memory; the newest where none could be read."""
        held = {worker.pid: worker.private_bytes or 0 for worker in reading.workers}
        return max(pids, key=lambda pid: (held.get(pid, 0), pid), default=None)
