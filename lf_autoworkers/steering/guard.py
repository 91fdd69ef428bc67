"""The memory guard's policy: readings in, one act at most out. A state machine without I/O and without a clock.

Covers when to start, hold, shed, kill, recycle and bring back workers. `danger` says how bad one moment is, `limits`
holds every constant, `controller` takes the readings and carries the acts out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from lf_autoworkers.steering.danger import Danger, Judge, Shortage, Surroundings
from lf_autoworkers.steering.incidents import Incidents
from lf_autoworkers.steering.limits import GuardLimits, PressureLevel
from lf_autoworkers.steering.readings import LoaderView, Reading
from lf_autoworkers.steering.trend import Growth, WorkerCosts


class ActKind(StrEnum):
    """What the loader is to do."""

    HOLD = "hold"
    START = "start"  # one worker more
    RESTORE = "restore"  # prefetch back to what it was
    THROTTLE = "throttle"  # one batch in flight per worker
    RETIRE = "retire"  # one worker leaves after its batch
    RECYCLE = "recycle"  # one worker leaves after its batch and is replaced
    KILL = "kill"  # SIGKILL now; its batches are done again
    GIVE_UP = "give up"  # nothing left to do: say so


@dataclass(frozen=True, slots=True)
class Act:
    """One order to the loader.

    Attributes:
        kind: What to do.
        target: Workers to have from now on.
        prefetch: Batches in flight per worker from now on.
        pid: The worker it is about, for RETIRE, RECYCLE and KILL.
        leak_bytes: For RECYCLE: how much that worker's memory has grown.
    """

    kind: ActKind
    target: int
    prefetch: int
    pid: int | None = None
    leak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one reading led to.

    Attributes:
        level: The guard's level after it (confirmed, with hysteresis).
        danger: The worst limit of this reading.
        act: What to do; its kind is HOLD most of the time.
        poll_s: Seconds until the next reading should be taken.
        shortage: Why there are fewer workers than wanted though nothing is wrong; ``None`` otherwise.
    """

    level: PressureLevel
    danger: Danger
    act: Act
    poll_s: float
    shortage: Shortage | None = None


class Guard:
    """The policy. `step` is the one method that changes it; time is `reading.at_s`."""

    def __init__(self, surroundings: Surroundings | None = None, limits: GuardLimits | None = None) -> None:
        """Set the policy up before the first worker starts.

        Args:
            surroundings: What is known of the machine and the plan.
            limits: The constants.
        """
        self.limits = limits or GuardLimits()
        self.surroundings = surroundings or Surroundings()
        self._growth = Growth(self.limits)
        self.costs = WorkerCosts(self.limits, self.surroundings.worker_bytes)
        self._judge = Judge(self.limits, self.surroundings, self._growth, self.costs)
        self.incidents = Incidents(self.limits)
        self.level = PressureLevel.NORMAL
        self._suspected_s: float | None = None
        self._calmer_s: float | None = None
        self._normal_s: float | None = None
        self._now_s = float("-inf")
        self._shortage: Shortage | None = None
        self._oom_kills: int | None = None
        self._kernel_killed = False
        self._leaving: tuple[int, float, bool] | None = None  # pid, since, killed
        self._ready_s = float("-inf")
        self._recycled_s = float("-inf")
        self._floor_s: float | None = None
        self._floor_kills: list[int] = []
        self._gave_up = False

    @property
    def settling(self) -> bool:
        """Whether the last act is still taking effect: a worker on its way out, or its memory not yet back."""
        return self._leaving is not None or self._now_s < self._ready_s

    def step(self, reading: Reading, view: LoaderView, take_turn: Callable[[], bool] = lambda: True) -> Verdict:
        """Take one reading and return what to do about it.

        Args:
            reading: Never older than the one before.
            view: The loader when it was taken.
            take_turn: Asked before workers are shed: whether this rank may act now, or another one of the node is.
        """
        self._now_s = reading.at_s
        self.costs.add(reading)
        self._growth.add(reading, explained=self.costs.starting(reading, view))
        danger = self._judge.danger(reading, view)
        self._follow(danger, reading.at_s)
        self._kernel_killed = self._kernel_killed or self._killed_since(reading)
        self._shortage = self._judge.shortage(reading, view) if self._first_waits(reading, view) else None
        act = self._choose(reading, view, danger)
        if act.kind in (ActKind.RETIRE, ActKind.KILL) and act.target < view.target and not take_turn():
            act = Act(ActKind.HOLD, view.target, view.prefetch)
        if act.kind is not ActKind.HOLD:
            self._remember(act, view, reading.at_s)
        self._oom_kills = reading.oom_kills if reading.oom_kills is not None else self._oom_kills
        return Verdict(self.level, danger, act, self._poll_s(danger, view), self._shortage)

    def may_start(self, reading: Reading, view: LoaderView) -> bool:
        """Return whether one worker more may be forked at this moment; changes nothing.

        The first one always may, even where the plan doubts that it fits: with none the trainer would decode, keep that
        memory, and be the kernel's victim. Where the kernel has then killed it, or where one kill would end
        everything, it waits for room. Every one may where no limit can be read at all and nothing has happened yet:
        then the plan's number stands unguarded.
        """
        if not view.live:
            return not self._first_waits(reading, view) or self._judge.shortage(reading, view) is None
        if self._killed_since(reading):
            return False  # the next step decides how many stay
        if not reading.seen:
            return not self.incidents.any
        return self._judge.danger(reading, view).level < PressureLevel.SHRINK

    def _first_waits(self, reading: Reading, view: LoaderView) -> bool:
        if view.live or self.surroundings.first_bytes is None:
            return False
        return self.surroundings.oom_group or self._kernel_killed or self._killed_since(reading)

    def _killed_since(self, reading: Reading) -> bool:
        return reading.oom_kills is not None and self._oom_kills is not None and reading.oom_kills > self._oom_kills

    def _follow(self, danger: Danger, now: float) -> None:
        """Move the level: up at once or after a second look, down only after a calm while."""
        raw = danger.level
        if raw >= PressureLevel.SHRINK:
            urgent = danger.exhaustion_s < self.limits.unconfirmed_exhaustion_s
            if self._suspected_s is None:
                self._suspected_s = now
            confirmed = urgent or now - self._suspected_s >= self.limits.confirm_s
        else:
            self._suspected_s = None
            confirmed = True
        reached = raw if confirmed else min(raw, PressureLevel.CAUTION)
        if reached >= self.level:
            self.level = reached
            self._calmer_s = None
        elif self._calmer_s is None:
            self._calmer_s = now
        elif now - self._calmer_s >= self.limits.calm_s:
            self.level, self._calmer_s = reached, None
        if self.level is not PressureLevel.NORMAL:
            self._normal_s = None
        elif self._normal_s is None:
            self._normal_s = now
            self._floor_s, self._gave_up = None, False
            self._floor_kills.clear()

    def _choose(self, reading: Reading, view: LoaderView, danger: Danger) -> Act:
        hold = Act(ActKind.HOLD, view.target, view.prefetch)
        now = reading.at_s
        if self._killed_since(reading) and view.target > 1:
            return Act(ActKind.RETIRE, max(1, view.target // 2), 1)
        if not view.elastic and len(view.live) > view.target:
            return hold  # what was decided takes effect with the next epoch
        # The level has memory; an act also needs the danger to be there still.
        level = min(self.level, danger.level)
        if self._leaving is not None:
            pid, since, killed = self._leaving
            if pid in view.live:
                if level is PressureLevel.EMERGENCY and not killed and danger.kind == "memory":
                    return Act(ActKind.KILL, view.target, view.prefetch, pid)
                if now - since < (self.limits.kill_timeout_s if killed else self.limits.retire_timeout_s):
                    return hold
            else:
                self._ready_s = max(self._ready_s, now + self.limits.settle_s)
            self._leaving = None
        if level is PressureLevel.EMERGENCY and now >= self._ready_s - self.limits.cooldown_s + self.limits.settle_s:
            return self._emergency(reading, view, danger) or hold
        if now < self._ready_s:
            return hold
        if level is PressureLevel.SHRINK:
            return self._shrink(reading, view, danger) or hold
        if level is PressureLevel.EMERGENCY:
            return hold
        return self._recycle(reading, view) or self._grow(reading, view) or hold

    def _emergency(self, reading: Reading, view: LoaderView, danger: Danger) -> Act | None:
        if danger.kind != "memory" or not view.elastic:
            return self._shrink(reading, view, danger)
        victim = self.costs.largest(reading, view.live)
        if victim is None:
            return self._floor(view, reading.at_s)
        if len(view.live) > 1:
            target = view.target if self.costs.leaks(victim, view.batch_bytes) else max(1, view.target // 2)
            return Act(ActKind.KILL, target, 1, victim)
        # The last worker: a fresh one helps only against a leak; where one kill ends all, anything beats the kernel.
        spent = len(self._floor_kills) >= self.limits.floor_kills
        if not spent and (self.surroundings.oom_group or self.costs.leak_bytes(victim) > 0):
            return Act(ActKind.KILL, 1, 1, victim)
        return self._floor(view, reading.at_s)

    def _shrink(self, reading: Reading, view: LoaderView, danger: Danger) -> Act | None:
        victim = self.costs.largest(reading, view.live)
        grown = 0 if victim is None else self.costs.leak_bytes(victim)
        rests = reading.at_s - self._recycled_s < self.limits.cooldown_s or not view.elastic
        leaks = grown > max(self.limits.pressed_leak_bytes, view.batch_bytes or 0)
        if victim is not None and danger.kind == "memory" and leaks and not rests:
            return Act(ActKind.RECYCLE, view.target, view.prefetch, victim, grown)
        if view.prefetch > 1 and danger.exhaustion_s > self.limits.shrink_exhaustion_s:
            return Act(ActKind.THROTTLE, view.target, 1)
        if victim is not None and view.target > 1 and len(view.live) > 1:
            return Act(ActKind.RETIRE, min(view.target, len(view.live)) - 1, 1, victim)
        if view.target > 1:
            return Act(ActKind.RETIRE, max(1, len(view.live)), 1)
        return self._floor(view, reading.at_s)

    def _floor(self, view: LoaderView, now: float) -> Act | None:
        if self._floor_s is None:
            self._floor_s = now
        if self._gave_up or now - self._floor_s < self.limits.floor_timeout_s:
            return None
        self._gave_up = True
        return Act(ActKind.GIVE_UP, view.target, view.prefetch)

    def _recycle(self, reading: Reading, view: LoaderView) -> Act | None:
        if not view.elastic or reading.at_s - self._recycled_s < self.limits.recycle_pause_s:
            return None
        leaky = tuple(pid for pid in view.live if self.costs.leaks(pid, view.batch_bytes))
        victim = self.costs.largest(reading, leaky)
        if victim is None:
            return None
        return Act(ActKind.RECYCLE, view.target, view.prefetch, victim, self.costs.leak_bytes(victim))

    def _grow(self, reading: Reading, view: LoaderView) -> Act | None:
        if self._normal_s is None or (not reading.seen and self.incidents.any):
            return None
        now = reading.at_s
        if not self.incidents.may_grow(now, calm_since=self._normal_s):
            return None
        ceiling = self.incidents.ceiling(view.wanted, now)
        more = view.target < ceiling and len(view.live) >= view.target
        deeper = view.target >= ceiling and view.prefetch < view.wanted_prefetch
        if more or deeper:
            self._shortage = self._judge.shortage(reading, view)
        if self._shortage is None and more:
            return Act(ActKind.START, view.target + 1, view.prefetch)
        if self._shortage is None and deeper:
            return Act(ActKind.RESTORE, view.target, view.wanted_prefetch)
        return None

    def _remember(self, act: Act, view: LoaderView, now: float) -> None:
        self._ready_s = now + self.limits.cooldown_s
        if act.kind is ActKind.START:
            self.incidents.grew(now)
            self._ready_s = now + self.limits.fast_poll_s / 2
        elif act.kind is ActKind.RESTORE:
            self.incidents.grew(now)
        elif act.kind in (ActKind.RETIRE, ActKind.KILL) and act.target < view.target:
            self.incidents.shed(view.target, now)
        if act.kind is ActKind.RECYCLE:
            self._recycled_s = now
        if act.pid is not None:
            self._leaving = (act.pid, now, act.kind is ActKind.KILL)
            if act.kind is ActKind.KILL and len(view.live) == 1:
                self._floor_kills.append(act.pid)

    def _poll_s(self, danger: Danger, view: LoaderView) -> float:
        limits = self.limits
        if danger.kind == "blind":
            return limits.slowest_poll_s
        urgent = max(limits.fastest_poll_s, danger.exhaustion_s / 20)
        easy = max(limits.fastest_poll_s, danger.headroom_bytes / (4 * limits.burst_bytes_per_s))
        ramping = view.target < view.wanted and not self.incidents.any
        if ramping or max(self.level, danger.level) > PressureLevel.NORMAL or self._leaving is not None:
            return min(limits.fast_poll_s, urgent, easy)
        return min(limits.slowest_poll_s, easy, urgent)
