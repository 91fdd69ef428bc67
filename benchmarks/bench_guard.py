"""Question: what does the guard cost a training that is never short of memory?

Method: one loop over an elastic DataLoader with a step of pure computation. The guard rests and works in turn, a block
of steps each, in the order rest, work, work, rest; the mean step times of neighbouring blocks are compared, so that a
machine that gets slower for a while does not count as the guard. Beside it: the CPU time of the guard's own thread
while it works, and of one reading without workers, both by the kernel's clock of that thread.

    python benchmarks/bench_guard.py [--pairs 60] [--steps 300]
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from lf_autoworkers.elastic import elastic  # noqa: E402
from lf_autoworkers.journal import Journal  # noqa: E402
from lf_autoworkers.steering.controller import Controller, Orders  # noqa: E402
from lf_autoworkers.steering.guard import Guard  # noqa: E402
from lf_autoworkers.steering.readings import Reading  # noqa: E402
from lf_autoworkers.steering.sensor import Sensor  # noqa: E402

WORKERS = 2
READINGS = 500
RAMP_STEPS = 400
"""Steps before the first block: the guard's ramp to all workers is over by then."""


class Batches(Dataset[torch.Tensor]):
    """Batches of 256 KiB that cost nearly nothing."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((65536,), float(index))


class RestingSensor(Sensor):
    """The real sensor, whose caller waits in it while `working` is not set."""

    def __init__(self) -> None:
        super().__init__()
        self.working = threading.Event()
        self.working.set()

    def read(self, now: float, batches: Mapping[int, int]) -> Reading:
        """Read as the real one does, once the guard is to work."""
        self.working.wait()
        return super().read(now, batches)


class Loop:
    """The training loop, its guard, and what the guard's thread took."""

    def __init__(self, steps: int) -> None:
        logger = logging.getLogger("bench")
        loader = DataLoader(Batches(steps), batch_size=None, num_workers=WORKERS)
        self._matrix = torch.rand(700, 700)
        self.sensor = RestingSensor()
        self._installed = elastic(loader)
        self._controller = Controller(
            self._installed.run,
            Orders(WORKERS),
            sensor=self.sensor,
            guard=Guard(),
            journal=Journal(Path(os.devnull), logger),
            logger=logger,
        )
        self._loader = loader
        self._batches: Iterator[torch.Tensor] = iter(())
        self._step = 0
        self.guard_s = self.guarded_s = 0.0

    def __enter__(self) -> Loop:
        self._installed.__enter__()
        self._controller.attach()
        self._batches = iter(self._loader)
        return self

    def __exit__(self, *error: Any) -> None:
        self.sensor.working.set()
        self._controller.close()
        self._installed.__exit__(*error)

    def block(self, steps: int, working: bool) -> float:
        """Return the mean step time in seconds of the next ``steps`` steps, the guard working or at rest."""
        if working:
            self.sensor.working.set()
        else:
            self.sensor.working.clear()
        guard_s, began = _guard_cpu_s(), time.perf_counter()
        for _ in range(steps):
            next(self._batches)
            self._matrix @ self._matrix
            if working:
                self._step += 1
                self._controller.finish_step(self._step)
        taken = time.perf_counter() - began
        if working:
            self.guard_s += _guard_cpu_s() - guard_s
            self.guarded_s += taken
        return taken / steps


def _guard_cpu_s() -> float:
    """Return the CPU seconds of the guard's thread so far; /proc's ticks of 10 ms are too coarse for it."""
    for thread in threading.enumerate():
        if thread.name == "lf-autoworkers-guard" and thread.ident is not None:
            return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return 0.0


def _median_range(ratios: list[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median: its order statistics, ranks n/2 -+ sqrt(n)."""
    ranked, half = sorted(ratios), len(ratios) / 2
    reach = math.sqrt(len(ratios))
    return ranked[max(0, math.floor(half - reach))], ranked[min(len(ranked) - 1, math.ceil(half + reach))]


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60, help="pairs of blocks (default 60)")
    parser.add_argument("--steps", type=int, default=300, help="steps of a block (default 300)")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    ratios = []
    with Loop(RAMP_STEPS + 2 * asked.pairs * asked.steps) as loop:
        loop.block(RAMP_STEPS, working=True)
        loop.guard_s = loop.guarded_s = 0.0
        for pair in range(asked.pairs):
            order = (False, True) if pair % 2 == 0 else (True, False)
            taken = {working: loop.block(asked.steps, working) for working in order}
            ratios.append(taken[True] / taken[False])
            print(f"mean step: {1e3 * taken[False]:.3f} ms at rest, {1e3 * taken[True]:.3f} ms guarded", flush=True)
    sensor = Sensor()
    pid = os.getpid()
    began = time.thread_time()
    for number in range(READINGS):
        sensor.read(number / 10, {pid: 1})
    reading_ms = 1e3 * (time.thread_time() - began) / READINGS
    low, high = _median_range(ratios)
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.1f}")
    print(
        f"step time guarded / at rest: median {statistics.median(ratios):.4f} of {len(ratios)} pairs (95 % of it:"
        f" {low:.4f} to {high:.4f}); guard thread {loop.guard_s / loop.guarded_s:.3%} of one core;"
        f" one reading {reading_ms:.3f} ms of CPU"
    )


if __name__ == "__main__":
    main()
