"""What the guard remembers of past pressure: how far and how soon workers may come back.

Covers the ceiling and the waits. When pressure is over is `guard`'s to say.
"""

from __future__ import annotations

from lf_autoworkers.steering.limits import GuardLimits


class Incidents:
    """Past sheddings and growths.

    A shedding soon after growing back was our own doing: the count that failed stays out of reach, each time for
    twice as long, and so does the next attempt. Otherwise somebody else's memory was to blame, and two workers always
    stay within reach.
    """

    def __init__(self, limits: GuardLimits) -> None:
        self._limits = limits
        self._grown_s: float | None = None
        self._shed_s: float | None = None
        self._failures = 0
        self._ceiling: int | None = None
        self._until_s = 0.0

    @property
    def any(self) -> bool:
        """Whether workers were ever shed in this run."""
        return self._shed_s is not None

    def grew(self, now: float) -> None:
        """Note that the guard let something grow."""
        self._grown_s = now

    def shed(self, count: int, now: float) -> None:
        """Note that workers were shed while `count` were wanted; several in a row are one incident."""
        again = self._shed_s is not None and now - self._shed_s < self._limits.regrow_first_s
        self._shed_s = now
        if again and (self._grown_s is None or self._grown_s < now - self._limits.regrow_first_s):
            return
        own_doing = self.any_growth_before(now)
        self._failures = self._failures + 1 if own_doing else 0
        self._ceiling = max(count - 1, 1 if own_doing else min(2, count))
        self._until_s = now + self._limits.incident_memory_s * 2**self._failures
        self._grown_s = None

    def any_growth_before(self, now: float) -> bool:
        """Whether a growth after an earlier incident is recent enough to be what caused this one."""
        return (
            self._ceiling is not None
            and self._grown_s is not None
            and (now - self._grown_s < 2 * self._limits.regrow_first_s)
        )

    def ceiling(self, wanted: int, now: float) -> int:
        """Return the most workers to come back to."""
        return wanted if self._ceiling is None or now >= self._until_s else min(wanted, self._ceiling)

    def may_grow(self, now: float, *, calm_since: float) -> bool:
        """Return whether the wait is over: none in the first ramp, then one for the first worker and one for each next.

        Args:
            calm_since: When the guard's level last became NORMAL, seconds.
        """
        if self._shed_s is None:
            return True
        first = min(self._limits.regrow_first_s * 2**self._failures, self._limits.regrow_longest_s)
        since_growth = float("inf") if self._grown_s is None else now - self._grown_s
        return now - max(calm_since, self._shed_s) >= first and since_growth >= self._limits.regrow_next_s
