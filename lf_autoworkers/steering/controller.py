"""One thread, one tick: sensor -> policy -> actuator.

Covers taking readings on time, handing them to the guard and carrying its acts out on a loader, with a line for the
user and one for the journal. `guard` decides, `sensor` reads; the loader is anything with the verbs of
`elastic.ElasticControl`.

The thread lives while there are workers, and is awake before the first of them is forked: `may_start` starts it. If
anything here fails, the loader keeps its workers, training goes on and one warning says so.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lf_autoworkers.elastic.api import ElasticControl, LoaderEvent, LoaderStats, WorkerSnapshot
from lf_autoworkers.journal import Journal
from lf_autoworkers.steering import messages
from lf_autoworkers.steering.guard import Act, ActKind, Guard, Verdict
from lf_autoworkers.steering.limits import PressureLevel
from lf_autoworkers.steering.readings import LoaderView, Reading
from lf_autoworkers.steering.record import Record
from lf_autoworkers.steering.sensor import Sensor
from lf_autoworkers.steering.turns import Turn

# With no worker for this long the thread ends; the next start wakes it.
_IDLE_S = 10.0


@dataclass(frozen=True, slots=True)
class Orders:
    """What the plan or the environment asked for.

    Attributes:
        wanted: Workers of this rank: start and ceiling of what the guard may do.
        prefetch: Batches in flight per worker.
        batch_bytes: Bytes of a batch as the plan expects them; ``None`` if unknown.
        observe: Whether to say what would be done and do nothing.
        elastic: Whether the loader's workers can leave at any moment.
    """

    wanted: int
    prefetch: int = 2
    batch_bytes: int | None = None
    observe: bool = False
    elastic: bool = True


class Controller:
    """Guards the workers of one run's loaders."""

    def __init__(
        self,
        loader: ElasticControl,
        orders: Orders,
        *,
        sensor: Sensor,
        guard: Guard,
        journal: Journal,
        logger: logging.Logger,
        advice: messages.Advice | None = None,
        turn: Turn | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing happens to the loader before `attach`."""
        self._loader = loader
        self._orders = orders
        self._sensor = sensor
        self._guard = guard
        self._logger = logger
        self._advice = advice or messages.Advice()
        self._turn = turn or Turn(None)
        self._clock = clock
        self.record = Record(journal, loader, orders.wanted)
        # While observing, what was only said is kept here, so that the next word follows from it.
        self._prefetch = orders.prefetch
        self._imagined = orders.wanted if orders.observe else None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._begun = self._failed = self._closed = False
        self._idle_s: float | None = None
        self._starved_s: float | None = None
        self._told_short = False
        self._feeding = True
        self._first_step: int | None = None
        self._step: int | None = None
        self._detach: Callable[[], None] | None = None

    def attach(self) -> None:
        """Take the loader over, before its first worker: one worker for now, every start asked for."""
        self._detach = self._loader.subscribe(self._on_event)
        self._loader.may_start = self.may_start
        if not self._orders.observe and self._orders.elastic and self._orders.wanted > 1:
            self._loader.resize(1)

    def begin_training(self, step: int) -> None:
        """Note that a trainer counts the steps from now on, `step` being those of before a resume; then `begin`."""
        self._first_step = self._step = step
        self.begin()

    def begin(self) -> None:
        """Take the first reading, say what is guarded, wake up. Called when loading is about to begin; once counts."""
        if self._failed or self._closed:
            return
        try:
            with self._lock:
                if not self._begun:
                    self._begun = True
                    self._say_start()
            self._awake()
        except Exception as error:
            self._fail(error)

    def _say_start(self) -> None:
        reading = self._sensor.read(self._clock(), {})
        around = self._guard.surroundings
        line = messages.start_line(
            reading, self._orders.wanted, oom_group=around.oom_group, observe=self._orders.observe
        )
        (self._logger.info if reading.seen else self._logger.warning)(line)
        for problem in self._sensor.problems:
            self._logger.warning("memory guard: %s", problem)
        self.record.start(reading, self._orders.observe, around)

    def finish(self) -> None:
        """Write the totals: training is over. Loaders of a later evaluation are guarded all the same."""
        self.record.summary(self._step)

    def close(self) -> None:
        """Stop the thread, let go of the loader, write the summary. Twice is harmless."""
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)
        if self._detach is not None:
            self._detach()
        self._loader.may_start = None
        self._turn.give_back()
        if self._begun:
            self.record.summary(self._step)

    def finish_step(self, step: int) -> None:
        """Note how many steps the trainer has finished."""
        self._step = step

    def may_start(self) -> bool:
        """Answer the loader, on the trainer's thread: may it start one worker more?"""
        self.begin()
        if self._failed or self._closed or self._orders.observe:
            return True
        try:
            stats, workers = self._loader.stats(), self._loader.workers()
            with self._lock:
                return self._guard.may_start(*self._look(stats, workers))
        except Exception as error:
            self._fail(error)
            return True

    def tick(self) -> float:
        """Take one reading, act on it, return the seconds until the next one. Called by the thread; tests call it."""
        # The loader has locks of its own: it is never asked while this one is held.
        stats, workers = self._loader.stats(), self._loader.workers()
        with self._lock:
            reading, view = self._look(stats, workers)
            verdict = self._guard.step(reading, view, self._turn.take)
            if not self._guard.settling:
                self._turn.give_back()
        self.record.reading(verdict, reading, view)
        if verdict.act.kind is not ActKind.HOLD:
            self._carry_out(verdict, reading, view)
        self._say_shortage(verdict, view)
        if not self._orders.observe:
            self._feed(verdict.level < PressureLevel.EMERGENCY or not view.live)
        self._watch_idle(view)
        return verdict.poll_s

    def _look(self, stats: LoaderStats, workers: Sequence[WorkerSnapshot]) -> tuple[Reading, LoaderView]:
        self.record.count(stats)
        finished = {worker.pid: self.record.finished(worker.pid) for worker in workers}
        view = LoaderView(
            wanted=self._orders.wanted,
            target=max(1, stats.target if self._imagined is None else self._imagined),
            live=tuple(finished)[: self._imagined],
            prefetch=self._prefetch,
            wanted_prefetch=self._orders.prefetch,
            batch_bytes=self.record.batch_bytes or self._orders.batch_bytes,
            steps=self._step or 0,
            # Without a trainer that counts: the third batch is asked for when the first has been used.
            warm=stats.delivered > 2 if self._first_step is None else (self._step or 0) > self._first_step,
            elastic=self._orders.elastic,
        )
        return self._sensor.read(self._clock(), finished), view

    def _carry_out(self, verdict: Verdict, reading: Reading, view: LoaderView) -> None:
        act = verdict.act
        kills = self.record.new_kills
        if kills and act.kind is ActKind.RETIRE:
            line = messages.killed_line(act, view, kills, self._advice)
        else:
            line = messages.act_line(verdict, view, reading, self._advice, observe=self._orders.observe)
        first_ramp = act.kind is ActKind.START and not self._guard.incidents.any
        self.record.act(verdict, view, line, observe=self._orders.observe, quiet=first_ramp)
        if act.kind in (ActKind.START, ActKind.RESTORE):
            if not first_ramp:
                self._logger.info(line)
        elif self.record.worth_saying(act.kind, reading.at_s):
            self._logger.warning(line)
        if self._imagined is None:
            self._obey(act, view)
        else:
            self._prefetch, self._imagined = act.prefetch, act.target

    def _obey(self, act: Act, view: LoaderView) -> None:
        if act.prefetch != view.prefetch:
            self._prefetch = act.prefetch
            self._loader.set_prefetch(None if act.prefetch == self._orders.prefetch else act.prefetch)
        if act.kind is ActKind.RECYCLE and act.pid is not None:
            self._loader.retire(act.pid)
        elif act.target != view.target:
            self._loader.resize(act.target, first=() if act.pid is None else (act.pid,))
        if act.kind is ActKind.KILL and act.pid is not None:
            self._loader.kill(act.pid)

    def _feed(self, on: bool) -> None:
        if on != self._feeding:
            self._feeding = on
            self._loader.feed(on)

    def _say_shortage(self, verdict: Verdict, view: LoaderView) -> None:
        """Say once that the ramp stopped short, when it has for a while and training has begun."""
        if verdict.shortage is None or self._guard.incidents.any or not view.warm:
            self._starved_s = None
        elif self._starved_s is None:
            self._starved_s = self._clock()
        elif not self._told_short and self._clock() - self._starved_s > _IDLE_S:
            self._told_short = True
            line = messages.shortage_line(verdict.shortage, view)
            self.record.note(line, view.steps)
            self._logger.info(line)

    def _watch_idle(self, view: LoaderView) -> None:
        if view.live or not self._orders.elastic:
            self._idle_s = None
        elif self._idle_s is None:
            self._idle_s = self._clock()

    def _awake(self) -> None:
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._idle_s = None
            self._thread = threading.Thread(target=self._run, name="lf-autoworkers-guard", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            pause_s = 0.0
            while not self._wake.wait(pause_s):
                pause_s = self.tick()
                with self._lock:
                    if self._idle_s is not None and self._clock() - self._idle_s > _IDLE_S:
                        self._thread = None
                        return
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Give the loader back what the plan asked for (unless memory was short) and go on without a guard."""
        if self._failed:
            return
        self._failed = True
        self._logger.warning(
            "memory guard: stopped by an error of its own (%s: %s): training goes on unguarded",
            type(error).__name__,
            error,
        )
        self.record.note(f"guard failed: {type(error).__name__}: {error}", self._step or 0)
        with contextlib.suppress(Exception):
            self._turn.give_back()
            self._loader.may_start = None
            self._loader.feed(True)
            if not self._guard.incidents.any and not self._orders.observe:
                self._loader.resize(self._orders.wanted)

    def _on_event(self, event: LoaderEvent) -> None:
        self.record.event(event, self._step)
