"""How bad one moment is: every limit against its lines and its time to exhaustion; and whether one worker more fits.

Covers a single reading and changes nothing. The memory of levels, cool-downs and incidents is `guard`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lf_autoworkers.hardware.facts import MemoryLevel
from lf_autoworkers.steering.limits import GuardLimits, PressureLevel
from lf_autoworkers.steering.readings import LoaderView, Reading
from lf_autoworkers.steering.trend import Growth, WorkerCosts


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the guard is told once, before the first worker starts.

    Attributes:
        worker_bytes: Private peak of one worker as the plan expects it, until one has shown its own; ``None`` if the
            plan does not know.
        first_bytes: What a single worker takes beside what the trainer would take in its place. Told where the plan
            found no room for one: once the kernel has killed it, the next one waits for that room. ``None``: it never
            waits.
        reserve_bytes: Bytes below every limit that stay untouched (``LF_AUTOWORKERS_MEMORY_RESERVE``).
        ranks: Training processes on this node that share its limits; each may reach its own peak at the same time.
        oom_group: Whether one kernel kill ends the whole cgroup (``memory.oom.group=1``): all lines move down.
    """

    worker_bytes: int | None = None
    first_bytes: int | None = None
    reserve_bytes: int = 0
    ranks: int = 1
    oom_group: bool = False


@dataclass(frozen=True, slots=True)
class Danger:
    """The worst of all limits at one moment.

    Attributes:
        level: How close it is.
        kind: ``memory``, ``shm``, or ``blind`` where nothing could be read.
        source: The file that holds the limit.
        limit_bytes: The limit.
        headroom_bytes: Bytes left below it.
        line_bytes: The line of `level` (of CAUTION while NORMAL): headroom below it is that level.
        growth_bytes_per_s: What the time was computed from.
        exhaustion_s: Headroom / growth in seconds; infinite when nothing grows.
    """

    level: PressureLevel
    kind: str
    source: str = ""
    limit_bytes: int = 0
    headroom_bytes: int = 0
    line_bytes: int = 0
    growth_bytes_per_s: float = 0.0
    exhaustion_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why one worker more does not fit.

    Attributes:
        kind: ``memory`` or ``shm``.
        source: The file that holds the limit.
        limit_bytes: The limit.
        headroom_bytes: Bytes left below it.
        need_bytes: What the trainer, the running workers and one more may yet take.
        line_bytes: What has to stay free.
    """

    kind: str
    source: str
    limit_bytes: int
    headroom_bytes: int
    need_bytes: int
    line_bytes: int


class Judge:
    """Measures a reading against the limits, knowing what grows and what a worker costs."""

    def __init__(self, limits: GuardLimits, surroundings: Surroundings, growth: Growth, costs: WorkerCosts) -> None:
        self._limits = limits
        self._around = surroundings
        self._shift = limits.oom_group_shift_fraction if surroundings.oom_group else 0.0
        self._growth = growth
        self._costs = costs

    def danger(self, reading: Reading, view: LoaderView) -> Danger:
        """Return the worst danger of all levels and /dev/shm (the one with the fewest bytes left among equals)."""
        comes_back = self._costs.trainer_reserve_bytes(reading, view) * self._around.ranks if view.warm else 0
        dangers = [self._level_danger(level, comes_back) for level in reading.seen]
        if (shm := self._shm_danger(reading, view)) is not None:
            dangers.append(shm)
        if not dangers:
            return Danger(PressureLevel.NORMAL, "blind")
        worst = max(dangers, key=lambda danger: (danger.level, -danger.headroom_bytes))
        if worst.level is PressureLevel.CAUTION and self._stalls(reading):
            return replace(worst, level=PressureLevel.SHRINK)
        return worst

    def shortage(self, reading: Reading, view: LoaderView) -> Shortage | None:
        """Return what forbids one worker more; ``None`` if there is room for it."""
        waiting = (view.batch_bytes or 0) * view.prefetch
        first = None if view.live else self._around.first_bytes
        to_come = self._costs.workers_to_come_bytes(reading, view) if first is None else first
        need = (self._costs.trainer_reserve_bytes(reading, view) + to_come + waiting) * self._around.ranks
        for level in reading.seen:
            limit, headroom = level.limit_bytes or 0, level.headroom_bytes or 0
            line = self._lines(limit)[PressureLevel.SHRINK]
            if headroom - need < line:
                return Shortage("memory", level.source, limit, headroom, need, line)
        shm = reading.shm
        if view.elastic or shm is None or not shm.total_bytes or shm.free_bytes is None:
            return None
        need = ((view.batch_bytes or 0) * len(view.live) + waiting) * self._around.ranks
        line = self._shm_line(shm.total_bytes)
        if shm.free_bytes - need < line:
            return Shortage("shm", shm.source, shm.total_bytes, shm.free_bytes, need, line)
        return None

    def _lines(self, limit_bytes: int) -> dict[PressureLevel, int]:
        return {
            level: line.bytes_for(limit_bytes, self._costs.worker_bytes, self._shift) + self._around.reserve_bytes
            for level, line in (
                (PressureLevel.EMERGENCY, self._limits.emergency),
                (PressureLevel.SHRINK, self._limits.shrink),
                (PressureLevel.CAUTION, self._limits.caution),
            )
        }

    def _level_danger(self, level: MemoryLevel, comes_back: int) -> Danger:
        limits, limit, headroom = self._limits, level.limit_bytes or 0, level.headroom_bytes or 0
        lines = self._lines(limit)
        burst, steady = self._growth.burst(level.source), self._growth.steady(level.source)
        near_bytes = (limits.exhaustion_near_fraction + self._shift) * limit
        left = headroom - self._around.reserve_bytes
        burst_s, steady_s = _seconds(left, burst), _seconds(left, steady)

        if headroom < lines[PressureLevel.EMERGENCY] or (left < near_bytes and burst_s < limits.emergency_exhaustion_s):
            found = PressureLevel.EMERGENCY
        elif headroom - comes_back < lines[PressureLevel.SHRINK] or (
            left < near_bytes and steady_s < limits.shrink_exhaustion_s
        ):
            found = PressureLevel.SHRINK
        elif headroom - comes_back < lines[PressureLevel.CAUTION] or (
            left < 2 * near_bytes and steady_s < limits.caution_exhaustion_s
        ):
            found = PressureLevel.CAUTION
        else:
            found = PressureLevel.NORMAL
        return Danger(
            level=found,
            kind="memory",
            source=level.source,
            limit_bytes=limit,
            headroom_bytes=headroom,
            line_bytes=lines[max(found, PressureLevel.CAUTION)],
            growth_bytes_per_s=max(burst, steady),
            exhaustion_s=min(burst_s, steady_s),
        )

    def _shm_danger(self, reading: Reading, view: LoaderView) -> Danger | None:
        shm = reading.shm
        if view.elastic or shm is None or not shm.total_bytes or shm.free_bytes is None:
            return None  # the elastic loader's batches are memory files of no file system
        if not view.batch_bytes or not view.live:
            return None
        # Each worker may write one more batch before anybody can stop it.
        line = self._shm_line(shm.total_bytes) + view.batch_bytes * len(view.live) * self._around.ranks
        level = PressureLevel.SHRINK if shm.free_bytes < line else PressureLevel.NORMAL
        return Danger(level, "shm", shm.source, shm.total_bytes, shm.free_bytes, line)

    def _shm_line(self, total_bytes: int) -> int:
        return int((1 - self._limits.shm_used_fraction) * total_bytes)

    def _stalls(self, reading: Reading) -> bool:
        some, full = reading.psi_some_percent or 0.0, reading.psi_full_percent or 0.0
        return some > self._limits.psi_some_percent or full > self._limits.psi_full_percent


def _seconds(headroom: int, growth: float) -> float:
    return math.inf if growth <= 0 else max(0, headroom) / growth
