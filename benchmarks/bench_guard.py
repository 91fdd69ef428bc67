"""Question: what does the guard cost a training that is never short of memory?

Method: one loop over an elastic DataLoader with a step of pure computation, guarded and unguarded in turn in the same
process; the medians of the step times are compared. Beside it, which is exact on a busy machine too: the CPU time of
the guard's own thread, and of one reading.

    python benchmarks/bench_guard.py [--rounds 9] [--steps 400]
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import threading
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from lf_autoworkers.elastic import elastic  # noqa: E402
from lf_autoworkers.journal import Journal  # noqa: E402
from lf_autoworkers.steering.controller import Controller, Orders  # noqa: E402
from lf_autoworkers.steering.guard import Guard  # noqa: E402
from lf_autoworkers.steering.sensor import Sensor  # noqa: E402

WORKERS = 2
READINGS = 500


class Batches(Dataset[torch.Tensor]):
    """Batches of 256 KiB that cost nearly nothing."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((65536,), float(index))


def run(steps: int, guarded: bool, journal: Path) -> tuple[list[float], float]:
    """Return the step times in seconds and the guard thread's share of one core."""
    logger = logging.getLogger("bench")
    loader = DataLoader(Batches(steps), batch_size=None, num_workers=WORKERS)
    matrix = torch.rand(700, 700)
    installed = elastic(loader)
    controller = Controller(
        installed.run, Orders(WORKERS), sensor=Sensor(), guard=Guard(), journal=Journal(journal, logger), logger=logger
    )
    times, share = [], 0.0
    with installed:
        if guarded:
            controller.attach()
        began = before = time.perf_counter()
        for number, _ in enumerate(loader):
            matrix @ matrix
            if guarded:
                controller.finish_step(number + 1)
            now = time.perf_counter()
            times.append(now - before)
            before = now
        if guarded:
            share = _guard_cpu_s() / (time.perf_counter() - began)
            controller.close()
    return times[len(times) // 4 :], share  # the first quarter holds the ramp


def _guard_cpu_s() -> float:
    """Return the CPU seconds of the guard's thread."""
    ticks, total = os.sysconf("SC_CLK_TCK"), 0
    for thread in threading.enumerate():
        if thread.name == "lf-autoworkers-guard":
            fields = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / ticks


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=400)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    journal = Path(os.devnull)
    ratios, shares = [], []
    for _ in range(asked.rounds):
        free, _ = run(asked.steps, False, journal)
        guarded, share = run(asked.steps, True, journal)
        ratios.append(statistics.median(guarded) / statistics.median(free))
        shares.append(share)
        print(
            f"median step: unguarded {1e3 * statistics.median(free):.3f} ms, guarded"
            f" {1e3 * statistics.median(guarded):.3f} ms, ratio {ratios[-1]:.4f}; guard thread {share:.3%} of one core"
        )
    sensor = Sensor()
    pid = os.getpid()
    began = time.thread_time()
    for number in range(READINGS):
        sensor.read(number / 10, {pid: 1})
    reading_ms = 1e3 * (time.thread_time() - began) / READINGS
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.1f}")
    print(
        f"ratio: median {statistics.median(ratios):.4f}, {min(ratios):.4f} to {max(ratios):.4f}; guard thread"
        f" {statistics.median(shares):.3%} of one core; one reading {reading_ms:.3f} ms of CPU"
    )


if __name__ == "__main__":
    main()
