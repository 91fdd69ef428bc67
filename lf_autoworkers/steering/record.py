"""What the controller remembers of a run and writes into its journal.

Covers counting (batches, costs, waiting) and the journal's events; decides nothing. `report` reads what is
written here:

    guard       once, at the start: limits, mode
    reading     while the guard's level is above NORMAL and when it changes; the numbers a replay needs
    resize      a change of the worker count: from, to, because
    act         any other order: throttle, recycle, kill, restore, give up
    worker_lost a worker died
    note        a line for the user that is no act
    pulse       totals, every minute
    summary     totals, at the end
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lf_autoworkers.elastic.api import BatchCost, ElasticControl, LoaderEvent, LoaderStats, WorkerLost
from lf_autoworkers.journal import Journal
from lf_autoworkers.steering.danger import Surroundings
from lf_autoworkers.steering.guard import ActKind, Verdict
from lf_autoworkers.steering.limits import PressureLevel
from lf_autoworkers.steering.readings import LoaderView, Reading

_PULSE_S = 60.0
# A row of readings this long shows an incident; after that one now and then is enough.
_DENSE_S = 10.0
_SPARSE_S = 10.0
# The same kind of line at most this often (dask: one "memory is high" per 300 s), counted in the journal all the same.
_SAY_AGAIN_S = {ActKind.RECYCLE: 300.0, ActKind.THROTTLE: 60.0}


class Record:
    """Counters and journal of one run."""

    def __init__(self, journal: Journal, loader: ElasticControl, wanted: int) -> None:
        """Start counting at zero."""
        self._journal = journal
        self._loader = loader
        self._wanted = wanted
        self._finished: dict[int, int] = {}
        self._newest: BatchCost | None = None
        self.batch_bytes = 0
        self.delivered = 0
        self.new_kills = 0
        self._kills: int | None = None
        self._tightest: tuple[int, int, str] | None = None
        self._level = PressureLevel.NORMAL
        self._raised_s = self._written_s = self._pulse_s = float("-inf")
        self._said: dict[ActKind, float] = {}
        self._acts: dict[str, int] = {}
        self._lost = 0
        self._summed: int | None = None
        self._first_s: float | None = None
        self._last_s = 0.0

    def start(self, reading: Reading, observe: bool, surroundings: Surroundings) -> None:
        """Write what the guard starts with."""
        self._journal.write(
            "guard",
            0,
            mode="observe" if observe else "on",
            wanted=self._wanted,
            surroundings=dataclasses.asdict(surroundings),
            levels=[dataclasses.asdict(level) for level in reading.levels],
            shm=None if reading.shm is None else dataclasses.asdict(reading.shm),
        )

    def count(self, stats: LoaderStats) -> None:
        """Take over what the loader has measured since the last time."""
        self.delivered = stats.delivered
        for cost in reversed(stats.costs):
            if cost is self._newest:
                break
            if cost.pid is not None:
                self._finished[cost.pid] = self._finished.get(cost.pid, 0) + 1
            self.batch_bytes = max(self.batch_bytes, cost.batch_bytes or 0)
        if stats.costs:
            self._newest = stats.costs[-1]

    def finished(self, pid: int) -> int:
        """Return how many batches a worker has made."""
        return self._finished.get(pid, 0)

    def reading(self, verdict: Verdict, reading: Reading, view: LoaderView) -> None:
        """Remember the tightest moment and write the reading if it changed something."""
        self._first_s = reading.at_s if self._first_s is None else self._first_s
        self._last_s = reading.at_s
        tightest = reading.tightest
        if tightest is not None:
            moment = (tightest.headroom_bytes or 0, tightest.limit_bytes or 0, tightest.source)
            self._tightest = moment if self._tightest is None else min(self._tightest, moment)
        self.new_kills = 0
        if reading.oom_kills is not None:
            self.new_kills = max(0, reading.oom_kills - (reading.oom_kills if self._kills is None else self._kills))
            self._kills = reading.oom_kills
        changed = verdict.level is not self._level
        if changed and verdict.level > self._level:
            self._raised_s = reading.at_s
        self._level = verdict.level
        dense = reading.at_s - self._raised_s < _DENSE_S
        due = verdict.level > PressureLevel.NORMAL and (dense or reading.at_s - self._written_s >= _SPARSE_S)
        if changed or due or verdict.act.kind is not ActKind.HOLD:
            self._written_s = reading.at_s
            self._journal.write("reading", view.steps, level=verdict.level.name, **_flat(reading), **_view(view))
        if reading.at_s - self._pulse_s >= _PULSE_S:
            self._pulse_s = reading.at_s
            self._journal.write("pulse", view.steps, **self._totals())

    def act(self, verdict: Verdict, view: LoaderView, line: str, *, observe: bool, quiet: bool) -> None:
        """Write an act; `quiet` for one of the first ramp, which is no news."""
        act = verdict.act
        self._acts[act.kind.value] = self._acts.get(act.kind.value, 0) + 1
        because = "room for one more" if quiet else line
        fields: dict[str, Any] = {"act": act.kind.value, "because": because, "pid": act.pid, "prefetch": act.prefetch}
        if observe:
            fields["observed_only"] = True
        fields["from"], fields["to"] = view.target, act.target
        self._journal.write("resize" if act.target != view.target else "act", view.steps, **fields)

    def worth_saying(self, kind: ActKind, now: float) -> bool:
        """Whether the user has not just read the same line."""
        if now - self._said.get(kind, float("-inf")) < _SAY_AGAIN_S.get(kind, 0.0):
            return False
        self._said[kind] = now
        return True

    def note(self, line: str, step: int) -> None:
        """Write a line that is no act."""
        self._journal.write("note", step, text=line)

    def event(self, event: LoaderEvent, step: int | None) -> None:
        """Write what the loader reports, where a report needs it."""
        if isinstance(event, WorkerLost):
            self._lost += not event.by_us
            self._journal.write("worker_lost", step or 0, **dataclasses.asdict(event))

    def summary(self, step: int | None) -> None:
        """Write the totals of the run, unless no batch was delivered since they were last written."""
        totals = self._totals()
        if totals["delivered"] == self._summed:
            return
        self._summed = totals["delivered"]
        self._journal.write("summary", step or 0, **totals)

    def _totals(self) -> Mapping[str, Any]:
        stats = self._loader.stats()
        headroom, limit, source = self._tightest or (None, None, None)
        return {
            "workers": stats.live_workers,
            "target": stats.target,
            "wanted": self._wanted,
            "delivered": stats.delivered,
            "wait_s": stats.wait_s,
            "wall_s": 0.0 if self._first_s is None else self._last_s - self._first_s,
            "tightest_headroom_bytes": headroom,
            "tightest_limit_bytes": limit,
            "tightest_source": source,
            "acts": dict(self._acts),
            "lost_workers": stats.lost_workers,
            "killed_from_outside": self._lost,
            "redone_batches": stats.redone_batches,
            "oom_kills": self._kills,
            "batch_bytes": self.batch_bytes or None,
        }


def _flat(reading: Reading) -> dict[str, Any]:
    return {
        "at_s": reading.at_s,
        "levels": [[level.source, level.limit_bytes, level.used_bytes] for level in reading.levels],
        "shm": None if reading.shm is None else [reading.shm.total_bytes, reading.shm.free_bytes],
        "psi": [reading.psi_some_percent, reading.psi_full_percent],
        "oom_kills": reading.oom_kills,
        "limit_hits": reading.limit_hits,
        "trainer": [reading.trainer_bytes, reading.trainer_peak_bytes],
        "workers": [[w.pid, w.private_bytes, w.peak_bytes, w.batches] for w in reading.workers],
    }


def _view(view: LoaderView) -> dict[str, Any]:
    return {
        "wanted": view.wanted,
        "target": view.target,
        "live": list(view.live),
        "prefetch": view.prefetch,
        "wanted_prefetch": view.wanted_prefetch,
        "batch_bytes": view.batch_bytes,
        "warm": view.warm,
        "elastic": view.elastic,
    }
