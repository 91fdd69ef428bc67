"""A training loop of its own process: a plain DataLoader, elastic and guarded or not, whose dataset misbehaves.

``python -m tests.real.boxed_loader OPTIONS.json`` runs it; what happened is printed as one line of JSON at the end. It
stands for the trainer where what matters is the kernel and not LLaMA-Factory (tests/real/test_guard_train.py has that).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from lf_autoworkers.elastic import ElasticOptions, elastic
from lf_autoworkers.journal import Journal
from lf_autoworkers.steering.controller import Controller, Orders
from lf_autoworkers.steering.danger import Surroundings
from lf_autoworkers.steering.guard import Guard
from lf_autoworkers.steering.limits import GuardLimits
from lf_autoworkers.steering.sensor import Sensor
from lf_autoworkers.steering.turns import Turn
from lf_autoworkers.units import MIB

_kept: list[bytearray] = []


@dataclass(frozen=True)
class Options:
    """One run.

    Attributes:
        workers: Workers wanted.
        guard: ``on``, ``observe``, ``off`` (elastic, unguarded) or ``stock`` (PyTorch's own loader).
        batches: Length of the dataset; batches hold one sample.
        step_s: What a training step takes.
        sample_s: What making a sample takes, asleep.
        sample_mib: Memory it takes meanwhile.
        batch_mib: Size of what is returned.
        hold_mib: Memory a worker keeps from its first sample on.
        leak_mib: Memory each sample leaves behind in its worker.
        huge_every: Every so many samples one takes `huge_mib`; 0 is never.
        burst_from: From this sample on each is huge; 0 is never.
        huge_mib: Memory such a sample takes, grown over `sample_s`.
        seconds: The loop ends after this long, whatever is left.
        journal: Where the journal goes.
        turn: The lock file shared by ranks.
        ranks: Processes that share the box.
        memory_limit_mib: ``LF_AUTOWORKERS_MEMORY_LIMIT``.
        regrow_s: First and next wait before workers come back, in place of the guard's 45 and 30 s.
    """

    workers: int
    guard: str = "on"
    batches: int = 100
    step_s: float = 0.02
    sample_s: float = 0.05
    sample_mib: int = 50
    batch_mib: int = 4
    hold_mib: int = 0
    leak_mib: float = 0.0
    huge_every: int = 0
    burst_from: int = 0
    huge_mib: int = 0
    seconds: float = 600.0
    journal: str = ""
    turn: str = ""
    ranks: int = 1
    memory_limit_mib: int = 0
    regrow_s: float = 0.0


class Samples(Dataset[torch.Tensor]):
    """Samples that are a function of their index alone, however much memory making them takes."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def __len__(self) -> int:
        return self._options.batches

    def __getitem__(self, index: int) -> torch.Tensor:
        options = self._options
        if options.hold_mib and not _kept:
            _kept.append(_touched(options.hold_mib * MIB))
        if options.leak_mib:
            _kept.append(_touched(int(options.leak_mib * MIB)))
        huge = options.huge_every and index % options.huge_every == options.huge_every - 1
        huge = huge or (options.burst_from and index >= options.burst_from)
        size = options.huge_mib if huge else options.sample_mib
        parts = []
        for _ in range(10):
            parts.append(_touched(size * MIB // 10))
            time.sleep(options.sample_s / 10)
        del parts
        return torch.full((options.batch_mib * MIB // 8,), index, dtype=torch.int64)


def _touched(size: int) -> bytearray:
    block = bytearray(size)
    block[:: os.sysconf("SC_PAGE_SIZE")] = b"\1" * len(block[:: os.sysconf("SC_PAGE_SIZE")])
    return block


def main(options: Options) -> dict[str, Any]:
    """Run the loop and return what happened."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logger = logging.getLogger("boxed")
    loader = DataLoader(Samples(options), batch_size=None, num_workers=options.workers, prefetch_factor=2)
    digest, steps, counts = hashlib.sha256(), 0, []
    stats: dict[str, Any] = {}
    if options.guard == "stock":
        began = time.monotonic()
        for batch in loader:
            digest.update(batch[:1].numpy().tobytes())
            steps += 1
            time.sleep(options.step_s)
        return {"steps": steps, "digest": digest.hexdigest(), "wall_s": time.monotonic() - began}

    sensor = Sensor(memory_limit_bytes=options.memory_limit_mib * MIB or None, ranks=options.ranks)
    limits = GuardLimits()
    if options.regrow_s:
        limits = replace(limits, regrow_first_s=options.regrow_s, regrow_next_s=options.regrow_s)
    around = Surroundings(worker_bytes=200 * MIB, ranks=options.ranks, oom_group=bool(sensor.facts.oom_group))
    installed = elastic(
        loader, options=ElasticOptions(ceiling=options.workers, oom_kills=sensor.oom_kills, logger=logger)
    )
    controller = Controller(
        installed.run,
        Orders(options.workers, batch_bytes=options.batch_mib * MIB, observe=options.guard == "observe"),
        sensor=sensor,
        guard=Guard(around, limits),
        journal=Journal(Path(options.journal) if options.journal else None, logger),
        logger=logger,
        turn=Turn(Path(options.turn) if options.turn else None),
    )
    with installed as run:
        if options.guard != "off":
            controller.attach()
        began = time.monotonic()
        for batch in loader:
            digest.update(batch[:1].numpy().tobytes())
            steps += 1
            counts.append(run.target)
            if options.guard != "off":
                controller.finish_step(steps)
            time.sleep(options.step_s)
            if time.monotonic() - began > options.seconds:
                break
        wall_s = time.monotonic() - began
        totals = run.stats()  # before the loader ends
        stats = {"lost": totals.lost_workers, "redone": totals.redone_batches, "wait_s": totals.wait_s}
        controller.close()
    return {"steps": steps, "digest": digest.hexdigest(), "wall_s": wall_s, "counts": counts, **stats}


if __name__ == "__main__":
    asked = Options(**json.loads(Path(sys.argv[1]).read_text()))
    result = main(asked)
    print(json.dumps({"options": asdict(asked), **result}), flush=True)
