"""A make-believe driver for `LoaderState`: workers are lists, time is whatever happens next.

`LoaderModel` turns each choice of a test into events, obeys the instructions as the real driver does, and checks after
every event what must always hold. Used by the hypothesis machine and by the long random walk:

    python -m tests.property.elastic_model --events 1000000
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass, field
from typing import Any

from lf_autoworkers.elastic import messages as m
from lf_autoworkers.elastic.api import WorkerPhase
from lf_autoworkers.elastic.state import DEATHS_PER_BATCH, LoaderState


@dataclass
class Process:
    """A worker process that exists: what was sent to it, and whether it is doomed."""

    serial: int
    tasks: list[tuple[int, int]] = field(default_factory=list)
    told_to_stop: bool = False
    killed: bool = False


def is_open(entry: Any) -> bool:
    """Whether a batch waits for a worker."""
    return entry.place.value == "to do" and not entry.in_process


def check(state: LoaderState) -> None:
    """Raise AssertionError where an invariant of the state does not hold."""
    assert list(state.entries) == list(range(state.next_deliver, state.next_pull)), "a batch was lost or invented"
    holders: dict[int, int] = {}
    for worker in state.workers.values():
        assert not (worker.held and worker.phase is WorkerPhase.STARTING), "a batch went to an unborn worker"
        assert not (worker.held and worker.told_to_stop), "a worker was told to leave with batches in hand"
        assert len(worker.held) <= 2, "a worker holds more than two batches"
        for generation, index in worker.held:
            if generation == state.generation and index in state.entries:
                assert index not in holders, f"batch {index} is held by two workers"
                holders[index] = worker.serial
    for index, entry in state.entries.items():
        assert (entry.place.value == "held") == (index in holders), f"batch {index}: {entry.place}"
        if is_open(entry):
            assert index in state._todo, f"batch {index} is to be done and in no list"
    ids = [worker.worker_id for worker in state.workers.values()]
    assert len(ids) == len(set(ids)), "two workers have the same id"


class LoaderModel:
    """A loader over ``batches`` index batches, without anything real."""

    def __init__(self, batches: int, target: int, factor: int) -> None:
        self.state = LoaderState(target, factor)
        self.batches = batches
        self.processes: dict[int, Process] = {}
        self.stored: set[int] = set()
        self.delivered: list[int] = []
        self.given_up: dict[int, m.Verdict] = {}
        self.deaths: dict[int, int] = {}
        self.generation = 0
        self.pulled = 0
        self.most_read_ahead = max(1, target * factor)
        self.finished = False
        self.vetoing = False
        self.events = 0
        self.begin_epoch()

    def send(self, event: m.Event) -> m.Instruction | None:
        """Give one event to the state machine, obey, check."""
        self.events += 1
        answer: m.Instruction | None = None
        for instruction in self.state.handle(event):
            match instruction:
                case m.StartWorker(serial, worker_id):
                    assert serial not in self.processes
                    assert worker_id < self.state.target and len(self.processes) < self.state.target
                    self.processes[serial] = Process(serial)
                case m.Dispatch(serial, index):
                    process = self.processes[serial]
                    assert not process.told_to_stop and index not in self.stored
                    open_below = [k for k, entry in self.state.entries.items() if k < index and is_open(entry)]
                    assert not open_below, "a later batch was given out first"
                    process.tasks.append((self.state.generation, index))
                case m.Store(index):
                    assert index not in self.stored
                    self.stored.add(index)
                case m.GiveUp(index, verdict):
                    assert self.deaths.get(index, 0) >= DEATHS_PER_BATCH
                    self.given_up[index] = verdict
                    self.stored.add(index)
                case m.StopWorker(serial):
                    assert not self.processes[serial].tasks
                    self.processes[serial].told_to_stop = True
                case m.KillWorker(serial):
                    self.processes[serial].killed = True
                case m.Deliver() | m.LoadInProcess() | m.RaiseInitError() | m.Finish():
                    assert answer is None
                    answer = instruction
                case _:
                    pass
        check(self.state)
        return answer

    # What the consumer does.

    def begin_epoch(self) -> None:
        """Start over, as persistent workers do."""
        self.generation += 1
        self.pulled = 0
        self.finished = False
        self.stored.clear()
        self.delivered.clear()
        self.given_up.clear()
        self.deaths.clear()
        self.send(m.EpochBegun(self.generation))

    def request(self, *, in_process_only: bool = False) -> bool:
        """Ask for the next batch, pulling first as the driver does; whether there was an answer."""
        if self.finished:
            return True
        for _ in range(self.state.wanted()):
            if self.pulled == self.batches:
                self.send(m.Exhausted())
                break
            self.pulled += 1
            self.send(m.Pulled(in_process=in_process_only))
            assert self.pulled - len(self.delivered) <= self.most_read_ahead
        before = set(self.processes)
        answer = self.send(m.Requested())
        new = set(self.processes) - before
        if self.vetoing and new:
            for serial in sorted(new):
                del self.processes[serial]
                self.send(m.StartFailed(serial, vetoed=True))
            if answer is None:
                answer = self.send(m.Requested(may_start=False))
        match answer:
            case m.Finish():
                assert len(self.delivered) == self.batches
                self.finished = True
            case m.Deliver(index):
                assert index in self.stored
                self.stored.remove(index)
                self._deliver(index)
            case m.LoadInProcess(index) | m.RaiseInitError(index):
                self._deliver(index)
        return answer is not None

    def _deliver(self, index: int) -> None:
        assert index == len(self.delivered), "out of order"
        self.delivered.append(index)

    # What workers do.

    def says_hello(self, serial: int) -> None:
        """A worker is ready."""
        self.send(m.SaidHello(serial))

    def delivers(self, serial: int, outcome: m.Outcome, wall_s: float = 0.001) -> None:
        """A worker is through with the batch in its hands."""
        generation, index = self.processes[serial].tasks.pop(0)
        self.send(m.Arrived(serial, generation, index, outcome, wall_s))

    def dies(self, serial: int, cause: m.Cause) -> None:
        """A worker is gone."""
        process = self.processes.pop(serial)
        if process.tasks and process.tasks[0][0] == self.generation:
            index = process.tasks[0][1]
            self.deaths[index] = self.deaths.get(index, 0) + 1
        self.send(m.Died(serial, m.Cause.OURS if process.killed else cause))

    def fails_init(self, serial: int) -> None:
        """``worker_init_fn`` raised."""
        self.processes[serial].told_to_stop = True
        self.send(m.InitFailed(serial))

    # What whoever steers does.

    def resize(self, workers: int, first: tuple[int, ...] = ()) -> None:
        """Want another number."""
        self.send(m.TargetSet(workers, first))
        self._widen()

    def set_factor(self, factor: int) -> None:
        """Read ahead another number."""
        self.send(m.FactorSet(factor))
        self._widen()

    def _widen(self) -> None:
        self.most_read_ahead = max(self.most_read_ahead, self.state.target * self.state.factor)

    # What a test picks from.

    def unborn(self) -> list[int]:
        """Workers that may say hello."""
        return [
            serial
            for serial in self.processes
            if not self.processes[serial].told_to_stop and self.state.workers[serial].phase is WorkerPhase.STARTING
        ]

    def busy(self) -> list[int]:
        """Workers with a batch in hand."""
        return [serial for serial, process in self.processes.items() if process.tasks]

    def alive(self) -> list[int]:
        """All worker processes."""
        return list(self.processes)

    def drain(self) -> None:
        """Let everything go well from here on: the epoch must end, with every batch delivered."""
        self.vetoing = False
        for _ in range(20 * (self.batches + len(self.processes) + 5)):
            if self.finished:
                return
            if self.request():
                continue
            dying = [serial for serial, process in self.processes.items() if process.killed or process.told_to_stop]
            if dying:
                self.dies(dying[0], m.Cause.OURS)
            elif self.unborn():
                self.says_hello(self.unborn()[0])
            elif self.busy():
                self.delivers(self.busy()[0], m.Outcome.SENT)
            else:
                raise AssertionError("the consumer waits and nobody works")
        raise AssertionError("the epoch does not end")


def walk(events: int, seed: int) -> tuple[int, int]:
    """Send about ``events`` random events through one loader after the other; return events and batches delivered."""
    rng = random.Random(seed)
    sent = delivered = 0
    while sent < events:
        model = LoaderModel(rng.randint(0, 40), rng.randint(0, 5), rng.randint(1, 4))
        for _ in range(rng.randint(20, 600)):
            step(model, rng)
        model.drain()
        sent, delivered = sent + model.events, delivered + len(model.delivered)
    return sent, delivered


def step(model: LoaderModel, rng: random.Random) -> None:
    """Do one random thing; what cannot happen now does not."""
    unborn, busy, alive = model.unborn(), model.busy(), model.alive()
    match rng.choices(range(14), (30, 12, 30, 3, 4, 1, 6, 2, 3, 2, 1, 0.5, 1, 2))[0]:
        case 0:
            model.request(in_process_only=rng.random() < 0.02)
        case 1 if unborn:
            model.says_hello(rng.choice(unborn))
        case 2 if busy:
            model.delivers(rng.choice(busy), m.Outcome.SENT, rng.choice((0.001, 100.0)))
        case 3 if busy:
            model.delivers(rng.choice(busy), rng.choice((m.Outcome.UNSENT, m.Outcome.UNSENDABLE)))
        case 4 if alive:
            model.dies(rng.choice(alive), rng.choice(list(m.Cause)))
        case 5 if alive:
            for serial in alive:
                model.dies(serial, m.Cause.CRASH)
        case 6:
            model.resize(rng.randint(0, 6), tuple(rng.sample(alive, min(len(alive), rng.randint(0, 2)))))
        case 7:
            model.set_factor(rng.randint(1, 4))
        case 8:
            model.send(m.FeedSet(rng.random() < 0.5))
        case 9 if busy:
            model.send(m.BatchOverdue(rng.choice(busy)))
        case 10 if unborn:
            model.send(m.HelloOverdue(unborn[0])) if rng.random() < 0.5 else model.fails_init(unborn[0])
        case 11:
            model.begin_epoch()
        case 12:
            model.vetoing = not model.vetoing
        case 13 if alive:
            model.send(m.RetireAsked(rng.choice(alive)))


def main() -> None:
    """Walk as long as asked."""
    parser = argparse.ArgumentParser(description="A long random walk through the loader's state machine.")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    begun = time.monotonic()
    sent, delivered = walk(asked.events, asked.seed)
    print(f"{sent} events, {delivered} batches in order, 0 lost, {time.monotonic() - begun:.0f} s (seed {asked.seed})")


if __name__ == "__main__":
    main()
