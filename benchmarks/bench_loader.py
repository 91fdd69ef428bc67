#!/usr/bin/env python3
"""What the elastic loader costs beside PyTorch's own, how fast it gives memory back, how fast it is over a death.

    python -m benchmarks.bench_loader throughput [--workers 2] [--rounds 5] [--csv FILE]
    python -m benchmarks.bench_loader resize [--rounds 5]
    python -m benchmarks.bench_loader kill [--rounds 15]

`throughput` passes over 4 KiB, 256 KiB and 8 MiB batches and over LLaMA-Factory's real collation of photographs, with
PyTorch's iterator and with ours in turn (A B B A ...), same loader, same worker count, one run. The clock runs from the
first batch to the last; the consumer reads every byte, as pinning or a copy to a device would. `resize` shrinks 4
workers with 256 MiB each to 1 and waits until their memory is back. `kill` kills the worker that makes the batch the
consumer waits for, and compares the wait with what the batch itself costs.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import platform
import signal
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils.data import DataLoader, Dataset

from lf_autoworkers.elastic import elastic

KIB, MIB = 1024, 1024**2
WHO = ("ours", "stock")


class Copies(Dataset[torch.Tensor]):
    """Batches of ``size_bytes``, each copied from memory: next to no work beside the transport."""

    def __init__(self, size_bytes: int, count: int) -> None:
        self.base, self.count = torch.ones(size_bytes // 4), count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.base.clone()


class Busy(Dataset[torch.Tensor]):
    """Batches that take ``seconds`` each."""

    def __init__(self, seconds: float, count: int) -> None:
        self.seconds, self.count = seconds, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> torch.Tensor:
        time.sleep(self.seconds)
        return torch.tensor(row)


@dataclass(frozen=True)
class Case:
    """A loader to pass over."""

    name: str
    dataset: Any
    batch_size: int | None = None
    collate_fn: Callable[[Any], Any] | None = None


def photographs(folder: Path, rows: int) -> Case:
    """Return LLaMA-Factory's own dataset and collator over photographs."""
    from lf_autoworkers.demo import build_vision_model, write_image_dataset
    from tests.real_batches import loader_parts

    build_vision_model(folder / "model")
    (folder / "data").mkdir()
    image = write_image_dataset(folder / "data", rows, ((1280, 960), (1600, 1200), (1024, 1536), (1920, 1080)))
    (folder / "data" / "dataset_info.json").write_text(json.dumps({"image": image}))
    dataset, collator = loader_parts(
        {
            "model_name_or_path": str(folder / "model"),
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "full",
            "dataset": "image",
            "dataset_dir": str(folder / "data"),
            "media_dir": str(folder / "data"),
            "template": "qwen2_vl",
            "cutoff_len": 4096,
            "output_dir": str(folder / "output"),
            "report_to": "none",
        }
    )
    return Case("photographs", dataset, 2, collator)


def read(batch: Any) -> float:
    """Touch every byte of a batch."""
    if torch.is_tensor(batch):
        return float(batch.sum())
    return sum(read(part) for part in (batch.values() if hasattr(batch, "values") else ()))


def pass_over(case: Case, workers: int, ours: bool) -> float:
    """Return batches a second of one pass, from its first batch on."""
    loader: DataLoader[Any] = DataLoader(
        case.dataset, batch_size=case.batch_size, collate_fn=case.collate_fn, num_workers=workers
    )
    installation = elastic(loader) if ours else None
    iterator = iter(loader)
    read(next(iterator))
    begun, count = time.perf_counter(), 0
    for batch in iterator:
        read(batch)
        count += 1
    elapsed_s = time.perf_counter() - begun
    if installation is not None:
        installation.uninstall()
    return count / elapsed_s


def throughput(workers: int, rounds: int, csv_file: Path | None) -> None:
    """Compare both iterators on every case."""
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            Case("4 KiB", Copies(4 * KIB, 3000)),
            Case("256 KiB", Copies(256 * KIB, 1500)),
            Case("8 MiB", Copies(8 * MIB, 120)),
            photographs(Path(folder), 96),
        ]
        rows: list[tuple[str, int, str, float]] = []
        for case in cases:
            for number in range(rounds):
                for who in WHO if number % 2 else WHO[::-1]:
                    rows.append((case.name, number, who, pass_over(case, workers, who == "ours")))
    print(f"{'batches':<12} {'stock/s':>9} {'ours/s':>9} {'ours/stock':>11}   (median, and per round)")
    for case in cases:
        mine, stock = ([rate for name, _, who, rate in rows if (name, who) == (case.name, w)] for w in WHO)
        ratios = [a / b for a, b in zip(mine, stock, strict=True)]
        each = " ".join(f"{ratio:.2f}" for ratio in ratios)
        line = f"{statistics.median(stock):>9.1f} {statistics.median(mine):>9.1f} {statistics.median(ratios):>11.2f}"
        print(f"{case.name:<12} {line}   {each}")
    if csv_file is not None:
        with csv_file.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("batches", "round", "loader", "batches_per_s"))
            writer.writerows(rows)


def ballast(worker_id: int) -> None:
    """Make a worker large."""
    globals()["kept"] = bytearray(os.urandom(MIB)) * 256


def resize(rounds: int) -> None:
    """Time a shrink from 4 workers to 1, until the memory of the 3 is back."""
    times = []
    for _ in range(rounds):
        loader = DataLoader(Busy(0.02, 10_000), batch_size=None, num_workers=4, worker_init_fn=ballast)
        with elastic(loader) as run:
            iterator = iter(loader)
            while run.stats().live_workers < 4:
                next(iterator)
            before, pids = _private_bytes(), {worker.pid for worker in run.workers()}
            begun = time.perf_counter()
            run.resize(1)
            while sum(psutil.pid_exists(pid) for pid in pids) > 1:
                next(iterator)
            times.append(time.perf_counter() - begun)
            freed = before - _private_bytes()
            print(f"4 -> 1: {freed / MIB:.0f} MiB back after {times[-1] * 1000:.0f} ms")
            del iterator
    print(f"median {statistics.median(times) * 1000:.0f} ms, most {max(times) * 1000:.0f} ms (20 ms batches)")


def _private_bytes() -> int:
    return sum(child.memory_full_info().uss for child in psutil.Process().children())


def kill(rounds: int) -> None:
    """Time the next batch after a kill of the worker that makes it, with one worker and with four."""
    for seconds in (0.02, 0.2):
        for workers in (1, 4):
            extra = []
            loader = DataLoader(Busy(seconds, 10_000), batch_size=None, num_workers=workers)
            with elastic(loader) as run:
                iterator = iter(loader)
                wanted = int(next(iterator)) + 1
                for _ in range(rounds):
                    while run.stats().live_workers < workers:
                        wanted = int(next(iterator)) + 1
                    while run.stats().ready_batches:
                        wanted = int(next(iterator)) + 1
                    victim = min((worker for worker in run.workers() if worker.busy), key=lambda worker: worker.pid)
                    begun = time.perf_counter()
                    os.kill(victim.pid, signal.SIGKILL)
                    assert int(next(iterator)) == wanted
                    extra.append(time.perf_counter() - begun - seconds)
                    wanted += 1
                del iterator
            most = max(extra) * 1000
            print(
                f"{seconds * 1000:.0f} ms batches, {workers} workers: next batch after its own cost "
                f"{statistics.median(extra) * 1000:+.0f} ms (median), {most:+.0f} ms (most of {rounds})"
            )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("throughput", "resize", "kill"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path)
    asked = parser.parse_args()
    logging.getLogger("lf_autoworkers.elastic").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    torch.set_num_threads(1)  # the consumer's reading must not fight with the workers for cores
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    if asked.what == "throughput":
        throughput(asked.workers, asked.rounds, asked.csv)
    elif asked.what == "resize":
        resize(asked.rounds)
    else:
        kill(asked.rounds)


if __name__ == "__main__":
    main()
