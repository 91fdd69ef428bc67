"""Which batch is where, who works, what to do next: the elastic loader without its processes.

One public method changes anything: `LoaderState.handle(event)` returns instructions, in order, for the driver to carry
out (`pool.py`). No clock, no process, no pipe, no batch content in here, so that it can be tested by the million
events. Does NOT measure time-outs, classify deaths or read counters (the driver does, and says so in events).

What always holds (tests check it after every event):
  - delivered batches are a prefix of the sampler's sequence, each once;
  - every batch pulled and not delivered is in exactly one place: to do, held by one worker, or ready;
  - a worker that has not said hello holds nothing; a worker is told to leave only when it holds nothing.
"""

from __future__ import annotations

import heapq

from lf_autoworkers.elastic import messages as m
from lf_autoworkers.elastic.api import WorkerPhase
from lf_autoworkers.elastic.ledger import Entry, Place, Worker

#: A batch is poisonous when this many workers died on it (and too big when the only worker was OOM-killed as often).
DEATHS_PER_BATCH = 3
#: A batch whose workers were OOM-killed this often among others is made alone, so that the next verdict is about it.
OOM_KILLS_IN_COMPANY = 3
#: Workers that may die (or fail to start) in a row without a hello before no more are started in this generation.
DEATHS_BEFORE_HELLO = 3
#: Up to this, seconds, a worker is given its next batch before it has finished the one in hand, or it would sleep until
#: the result has travelled and the next task comes.
SHORT_BATCH_S = 2.0


class LoaderState:
    """The ledger of one iterator's batches and workers.

    Args:
        target: Workers wanted, 0 and up (0: batches are made in process).
        factor: Batches read ahead per worker, 1 and up.
    """

    def __init__(self, target: int, factor: int) -> None:
        self.generation = 0
        self.target = target
        self.factor = factor
        self.feeding = True
        self.workers: dict[int, Worker] = {}
        self.entries: dict[int, Entry] = {}
        self.next_pull = 0
        self.next_deliver = 0
        self.exhausted = False
        self._todo: list[int] = []
        self._next_serial = 0
        self._never_said_hello = 0
        self._frozen = False
        self._init_failed = False
        self._mean_wall_s: float | None = None

    @property
    def window(self) -> int:
        """Most batches that may be pulled and not delivered."""
        return max(1, self.factor * self.target) if self.feeding else 1

    @property
    def ready(self) -> int:
        """Batches that wait to be delivered."""
        return sum(entry.place is Place.READY for entry in self.entries.values())

    def wanted(self) -> int:
        """Return how many index batches to pull from the sampler now."""
        return 0 if self.exhausted else max(0, self.window - (self.next_pull - self.next_deliver))

    def holds(self, serial: int) -> int:
        """Return how many batches a worker holds (0 for an unknown one)."""
        worker = self.workers.get(serial)
        return len(worker.held) if worker else 0

    def in_hand(self, serial: int) -> int | None:
        """Return the batch a worker is on, None if it is idle, unknown, or on one of an older generation."""
        worker = self.workers.get(serial)
        if worker is None or not worker.held or worker.held[0][0] != self.generation:
            return None
        return worker.held[0][1]

    def handle(self, event: m.Event) -> list[m.Instruction]:
        """Take one event, return what to do about it. The only way to change this object."""
        out: list[m.Instruction] = []
        match event:
            case m.Pulled(in_process):
                self.entries[self.next_pull] = Entry(in_process=in_process)
                heapq.heappush(self._todo, self.next_pull)
                self.next_pull += 1
            case m.Exhausted():
                self.exhausted = True
            case m.Requested(may_start):
                if may_start:
                    self._start(out)
                self._dispatch(out, wanted_now=True)
                self._answer(out)
                return out
            case m.Arrived():
                self._arrived(event, out)
            case m.SaidHello(serial):
                self._said_hello(serial)
            case m.Died(serial, cause):
                self._died(serial, cause, out)
            case m.StartFailed(serial, vetoed):
                del self.workers[serial]
                if not vetoed:
                    self._count_silent_death(out)
            case m.InitFailed(serial):
                self.workers[serial].told_to_stop = True
                self.workers[serial].phase = WorkerPhase.RETIRING
                self._init_failed = True
            case m.HelloOverdue(serial):
                self._freeze(out)
                out.append(m.KillWorker(serial))
            case m.BatchOverdue(serial):
                self._overdue(serial, out)
            case m.TargetSet(workers, first):
                self.target = workers
                self._fit_target(first, out)
            case m.RetireAsked(serial):
                self._retire(self.workers[serial], out)
            case m.FeedSet(on):
                self.feeding = on
            case m.FactorSet(batches_per_worker):
                self.factor = batches_per_worker
            case m.EpochBegun(generation):
                self._begin(generation)
        self._dispatch(out, wanted_now=False)
        return out

    def _begin(self, generation: int) -> None:
        self.generation = generation
        self.entries.clear()
        self._todo.clear()
        self.next_pull = self.next_deliver = 0
        self.exhausted = False
        self._frozen = False
        self._never_said_hello = 0
        self._init_failed = False

    def _alive(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.phase is not WorkerPhase.RETIRING]

    def _start(self, out: list[m.Instruction]) -> None:
        """Ask for as many workers as are missing, unless nothing is left for them to do.

        Those on their way out still count, so there are never more processes than wanted, and an id is always free.
        """
        if self._frozen or self._init_failed or (self.exhausted and not self._open_todo()):
            return
        taken = {worker.worker_id for worker in self.workers.values()}
        for _ in range(self.target - len(self.workers)):
            worker_id = next(number for number in range(len(taken) + 1) if number not in taken)
            taken.add(worker_id)
            worker = Worker(self._next_serial, worker_id)
            self.workers[worker.serial] = worker
            self._next_serial += 1
            out.append(m.StartWorker(worker.serial, worker_id))

    def _open_todo(self) -> bool:
        return any(entry.place is Place.TODO and not entry.in_process for entry in self.entries.values())

    def _answer(self, out: list[m.Instruction]) -> None:
        """Answer the consumer if its batch can be had now; no answer means that it has to wait."""
        index = self.next_deliver
        entry = self.entries.get(index)
        if entry is None:
            if self.exhausted:
                out.append(m.Finish())
            return
        if entry.place is Place.READY:
            out.append(m.Deliver(index))
        elif self._init_failed:
            self._init_failed = False
            out.append(m.RaiseInitError(index))
        elif entry.place is Place.TODO and (entry.in_process or not self._may_hope()):
            out.append(m.LoadInProcess(index))
        else:
            return
        del self.entries[index]
        self.next_deliver += 1

    def _may_hope(self) -> bool:
        """Whether a worker will come to do what is to do: one that is there, or the successor of one that leaves."""
        return bool(self._alive()) or (self.target > 0 and not self._frozen and bool(self.workers))

    def _dispatch(self, out: list[m.Instruction], *, wanted_now: bool) -> None:
        head = self.entries.get(self.next_deliver)
        alone = head is not None and head.oom_kills >= OOM_KILLS_IN_COMPANY
        if not self._todo or (alone and any(worker.held for worker in self.workers.values())):
            return
        live = [worker for worker in self.workers.values() if worker.phase is WorkerPhase.LIVE]
        short = self._mean_wall_s is not None and self._mean_wall_s <= SHORT_BATCH_S
        for depth in (1, 2) if short else (1,):
            for worker in live:
                if len(worker.held) >= depth:
                    continue
                index = self._next_todo(wanted_now)
                if index is None:
                    return
                entry = self.entries[index]
                entry.place = Place.HELD
                worker.held.append((self.generation, index))
                out.append(m.Dispatch(worker.serial, index, entry.unsent > 0))
                if alone:
                    return

    def _next_todo(self, wanted_now: bool) -> int | None:
        """Take the lowest open batch off the heap; heap items whose batch has moved on are thrown away here."""
        while self._todo:
            index = self._todo[0]
            entry = self.entries.get(index)
            stale = entry is None or entry.place is not Place.TODO or entry.in_process
            if not stale and not self.feeding and not (wanted_now and index == self.next_deliver):
                return None
            heapq.heappop(self._todo)
            if not stale:
                return index
        return None

    def _put_back(self, index: int) -> None:
        self.entries[index].place = Place.TODO
        heapq.heappush(self._todo, index)

    def _arrived(self, event: m.Arrived, out: list[m.Instruction]) -> None:
        worker = self.workers[event.serial]
        worker.held.remove((event.generation, event.index))
        mean = self._mean_wall_s
        self._mean_wall_s = event.wall_s if mean is None else 0.9 * mean + 0.1 * event.wall_s
        entry = self.entries.get(event.index) if event.generation == self.generation else None
        if entry is not None and entry.place is Place.HELD:
            if event.outcome is m.Outcome.SENT:
                entry.place = Place.READY
                out.append(m.Store(event.index))
            else:
                entry.unsent += 1
                entry.in_process = event.outcome is m.Outcome.UNSENDABLE or entry.unsent > 1
                self._put_back(event.index)
        self._stop_if_done(worker, out)

    def _said_hello(self, serial: int) -> None:
        self._never_said_hello = 0
        worker = self.workers[serial]
        if worker.phase is WorkerPhase.STARTING:
            worker.phase = WorkerPhase.LIVE

    def _died(self, serial: int, cause: m.Cause, out: list[m.Instruction]) -> None:
        worker = self.workers.pop(serial)
        if worker.told_to_stop:
            out.append(m.ReportRetired(serial))
            return
        lost = [index for generation, index in worker.held if generation == self.generation and index in self.entries]
        if worker.phase is WorkerPhase.STARTING:
            self._count_silent_death(out)
        for index in lost:
            self._put_back(index)
        if lost and worker.held[0] == (self.generation, lost[0]):
            self._blame(lost[0], cause, out)
        out.append(m.ReportLoss(serial, len(lost)))

    def _blame(self, index: int, cause: m.Cause, out: list[m.Instruction]) -> None:
        entry = self.entries[index]
        if cause is m.Cause.CRASH:
            entry.crashes += 1
        elif cause is m.Cause.OOM:
            made_alone = entry.oom_kills >= OOM_KILLS_IN_COMPANY and not any(w.held for w in self.workers.values())
            entry.oom_kills += 1
            entry.oom_kills_alone += made_alone or not self.workers
        if entry.crashes >= DEATHS_PER_BATCH or entry.oom_kills_alone >= DEATHS_PER_BATCH:
            entry.place = Place.READY
            poison = entry.crashes >= DEATHS_PER_BATCH
            out.append(m.GiveUp(index, m.Verdict.POISON if poison else m.Verdict.TOO_BIG))

    def _count_silent_death(self, out: list[m.Instruction]) -> None:
        self._never_said_hello += 1
        if self._never_said_hello >= DEATHS_BEFORE_HELLO:
            self._freeze(out)

    def _freeze(self, out: list[m.Instruction]) -> None:
        if not self._frozen:
            self._frozen = True
            out.append(m.ReportFrozen(self._never_said_hello))

    def _overdue(self, serial: int, out: list[m.Instruction]) -> None:
        index = self.in_hand(serial)
        entry = self.entries.get(index) if index is not None else None
        if entry is None:
            out += [m.ReportHang(serial, None, killed=True), m.KillWorker(serial)]
            return
        entry.hangs += 1
        if entry.hangs == 1:
            out += [m.ReportHang(serial, index, killed=True), m.KillWorker(serial)]
        elif entry.hangs == 2:
            out.append(m.ReportHang(serial, index, killed=False))

    def _fit_target(self, first: tuple[int, ...], out: list[m.Instruction]) -> None:
        """Retire what is too many (named ones, then the idle, then the newest); call back those still at the door."""
        alive = self._alive()
        leaving = [worker for worker in self.workers.values() if worker.phase is WorkerPhase.RETIRING]
        for worker in leaving:
            if len(alive) < self.target and not worker.told_to_stop and worker.serial not in first:
                worker.phase = WorkerPhase.LIVE
                alive.append(worker)
        alive.sort(key=lambda worker: (worker.serial not in first, len(worker.held), -worker.serial))
        for worker in alive[: max(0, len(alive) - self.target)]:
            self._retire(worker, out)

    def _retire(self, worker: Worker, out: list[m.Instruction]) -> None:
        worker.phase = WorkerPhase.RETIRING
        self._stop_if_done(worker, out)

    def _stop_if_done(self, worker: Worker, out: list[m.Instruction]) -> None:
        if worker.phase is WorkerPhase.RETIRING and not worker.held and not worker.told_to_stop:
            worker.told_to_stop = True
            out.append(m.StopWorker(worker.serial))
