"""A box with a memory limit, a trainer and workers, in simulated time: what the policy's tests run against.

The arithmetic of memory only; real kernels are in tests/real.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from lf_autoworkers.hardware.facts import MemoryLevel
from lf_autoworkers.steering.guard import Act, ActKind, Guard, Verdict
from lf_autoworkers.steering.readings import LoaderView, Reading, WorkerReading
from lf_autoworkers.units import GIB, MIB


@dataclass
class SimulatedWorker:
    """A worker that reaches its peak half a second after its start and may leak from then on."""

    pid: int
    born_s: float
    peak_bytes: int
    leak_bytes_per_s: float = 0.0
    leaves_s: float = math.inf

    def private_bytes(self, now: float) -> int:
        age = now - self.born_s
        return int(self.peak_bytes * min(1.0, age / 0.5) + self.leak_bytes_per_s * max(0.0, age - 0.5))


@dataclass
class Box:
    """One memory limit with everything inside it."""

    limit_bytes: int = 4 * GIB
    trainer_bytes: int = 1 * GIB
    worker_bytes: int = 256 * MIB
    leak_bytes_per_s: float = 0.0
    neighbour_bytes: int = 0
    wanted: int = 8
    prefetch: int = 2
    batch_bytes: int = 8 * MIB
    retire_s: float = 0.5
    blind: bool = False
    guard: Guard = field(default_factory=Guard)
    now: float = 0.0
    target: int = 1
    oom_kills: int = 0
    acts: list[tuple[float, Act]] = field(default_factory=list)
    workers: list[SimulatedWorker] = field(default_factory=list)
    _pid: int = 100

    @property
    def used_bytes(self) -> int:
        private = sum(w.private_bytes(self.now) for w in self.workers)
        return (
            self.trainer_bytes + self.neighbour_bytes + private + self.batch_bytes * self.prefetch * len(self.workers)
        )

    @property
    def kinds(self) -> list[ActKind]:
        """What was done, in order."""
        return [act.kind for _, act in self.acts]

    def view(self) -> LoaderView:
        return LoaderView(
            wanted=self.wanted,
            target=self.target,
            live=tuple(w.pid for w in self.workers),
            prefetch=self.prefetch,
            wanted_prefetch=2,
            batch_bytes=self.batch_bytes,
            steps=int(self.now),
            warm=self.now >= 1,
        )

    def reading(self) -> Reading:
        level = MemoryLevel(self.limit_bytes, None if self.blind else self.used_bytes, "memory.max")
        workers = tuple(
            WorkerReading(
                w.pid, w.private_bytes(self.now), w.private_bytes(self.now), batches=int((self.now - w.born_s) / 0.25)
            )
            for w in self.workers
        )
        return Reading(
            at_s=self.now,
            levels=(level,),
            trainer_bytes=self.trainer_bytes,
            trainer_peak_bytes=self.trainer_bytes,
            workers=workers,
        )

    def run(self, seconds: float) -> Iterator[Verdict]:
        """Let `seconds` pass; yields each verdict after it was carried out."""
        end = self.now + seconds
        while self.now < end:
            self._come_and_go()
            if self.used_bytes > self.limit_bytes and self.workers:
                self.workers.remove(max(self.workers, key=lambda w: w.private_bytes(self.now)))
                self.oom_kills += 1
            verdict = self.guard.step(self.reading(), self.view())
            if verdict.act.kind is not ActKind.HOLD:
                self.acts.append((self.now, verdict.act))
            self._obey(verdict.act)
            yield verdict
            self.now += verdict.poll_s

    def last(self, seconds: float) -> Verdict:
        """Let `seconds` pass and return the last verdict."""
        *_, verdict = self.run(seconds)
        return verdict

    def _come_and_go(self) -> None:
        self.workers = [w for w in self.workers if w.leaves_s > self.now]
        while sum(w.leaves_s == math.inf for w in self.workers) < self.target:
            self._pid += 1
            self.workers.append(SimulatedWorker(self._pid, self.now, self.worker_bytes, self.leak_bytes_per_s))

    def _obey(self, act: Act) -> None:
        self.target, self.prefetch = act.target, act.prefetch
        for worker in self.workers:
            if worker.pid == act.pid and act.kind is ActKind.KILL:
                worker.leaves_s = self.now + 0.02
            elif worker.pid == act.pid:
                worker.leaves_s = self.now + self.retire_s
        staying = [w for w in self.workers if w.leaves_s == math.inf]
        for worker in staying[self.target :]:
            worker.leaves_s = self.now + self.retire_s
