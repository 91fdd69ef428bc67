"""Random programs of a real elastic DataLoader with real worker processes, against PyTorch's own 0 workers.

A program is a loader (size, batch, shuffle, drop_last, workers, prefetch, persistent, epochs, start method) and events
at random steps: resizes, SIGKILLs from outside, and workers that kill themselves at a chosen moment. Every batch of
every epoch must be the one that `num_workers=0` gives, to the byte; no program may hang; nothing may be left behind.

    python -m tests.property.elastic_programs --programs 1000
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import random
import signal
import socket
import tempfile
import threading
import time
import warnings
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from lf_autoworkers.elastic import ElasticOptions, elastic, state, wire

MOMENTS = ("before receive", "in fetch", "mid write", "after write", "while shutting down")
#: A program that takes longer hangs; the longest take about 10 s (spawn on two busy cores), seconds.
DEADLINE_S = 120


class Rows(Dataset[Any]):
    """Rows of 8 B to 100 KiB, so that batches take both ways home; draws random numbers if asked to."""

    def __init__(self, size: int, draws: bool, tokens: Path | None) -> None:
        self.size, self.draws, self.tokens = size, draws, tokens

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: int) -> Any:
        if self.tokens is not None and get_worker_info() is not None:
            die_at("in fetch", self.tokens)
        drawn = (random.random(), torch.rand(2)) if self.draws else ()
        return torch.full((1 << (row % 14),), row), {"row": row, "text": f"row {row}"}, drawn


def collate(rows: Any) -> Any:
    """Keep the rows as they are: their tensors have different lengths."""
    return rows


def die_at(moment: str, tokens: Path) -> None:
    """Kill this process if it is the one that gets the token for ``moment``."""
    if claim(moment, tokens):
        os.kill(os.getpid(), signal.SIGKILL)


def claim(moment: str, tokens: Path) -> bool:
    """Take the token for ``moment`` away; whether there was one, and no other worker was faster."""
    try:
        (tokens / moment).unlink()
    except FileNotFoundError:
        return False
    return True


class DeathWish:
    """A ``worker_init_fn`` that puts `die_at` into the worker's own reading and writing."""

    def __init__(self, tokens: Path) -> None:
        self.tokens = tokens

    def __call__(self, worker_id: int) -> None:
        receive, send, tokens = wire.receive_task, wire.send_result, self.tokens

        def receive_task(sock: socket.socket) -> wire.Task | None:
            die_at("before receive", tokens)
            task = receive(sock)
            if task is None or task.kind == wire.STOP:
                die_at("while shutting down", tokens)
            return task

        def send_result(sock: socket.socket, kind: int, *rest: Any) -> None:
            if kind == wire.RESULT and claim("mid write", tokens):
                ours, theirs = socket.socketpair()
                ours.settimeout(0)
                threading.Thread(target=send, args=(theirs, kind, *rest), daemon=True).start()
                whole = _read_all(ours)
                sock.sendall(whole[: random.randint(1, len(whole) - 1)])
                os.kill(os.getpid(), signal.SIGKILL)
            send(sock, kind, *rest)
            die_at("after write", tokens)

        wire.receive_task, wire.send_result = receive_task, send_result  # type: ignore[assignment]


def _read_all(sock: socket.socket) -> bytes:
    """Read what a sender in another thread writes, until it pauses."""
    content, quiet_since = b"", time.monotonic()
    while time.monotonic() - quiet_since < 0.05:
        try:
            content += sock.recv(1 << 20)
            quiet_since = time.monotonic()
        except BlockingIOError:
            time.sleep(0.001)
    return content


@dataclass(frozen=True)
class Program:
    """What to iterate, and what happens at which (epoch, step)."""

    seed: int
    rows: int
    batch_size: int | None
    shuffle: bool
    own_generator: bool
    drop_last: bool
    workers: int
    prefetch_factor: int
    persistent: bool
    epochs: int
    context: str | None
    draws: bool
    events: dict[tuple[int, int], list[tuple[str, int]]]


def make_program(seed: int, *, spawn: bool) -> Program:
    """Return the program of a seed."""
    rng = random.Random(seed)
    rows = rng.choice((0, 1, 7, 30, 60, 120))
    batch_size = rng.choice((None, 1, 2, 3, 5, 8))
    epochs = rng.randint(1, 3)
    steps = max(1, rows // (batch_size or 1))
    events: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for _ in range(rng.randint(0, 4 if spawn else 10)):
        kind = rng.choice(("resize", "resize", "kill", "kill all", *MOMENTS))
        events.setdefault((rng.randrange(epochs), rng.randrange(steps)), []).append((kind, rng.randint(0, 4)))
    return Program(
        seed=seed,
        rows=rows,
        batch_size=batch_size,
        shuffle=rng.random() < 0.7 and rows > 0,
        own_generator=rng.random() < 0.5,
        drop_last=batch_size is not None and rng.random() < 0.3,
        workers=rng.randint(1, 2 if spawn else 4),
        prefetch_factor=rng.choice((1, 2, 4)),
        persistent=rng.random() < 0.4,
        epochs=epochs,
        context="spawn" if spawn else None,
        draws=rng.random() < 0.4,
        events=events,
    )


def loader_of(program: Program, tokens: Path | None) -> DataLoader[Any]:
    """Return the program's loader; with 0 workers where there are no tokens."""
    workers = 0 if tokens is None else program.workers
    kept = {"batch_size": program.batch_size}
    if program.batch_size is not None:
        kept["drop_last"] = program.drop_last
    return DataLoader(
        Rows(program.rows, program.draws, tokens),
        shuffle=program.shuffle,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(program.seed) if program.own_generator else None,
        num_workers=workers,
        prefetch_factor=program.prefetch_factor if workers else None,
        persistent_workers=program.persistent and workers > 0,
        multiprocessing_context=program.context if workers else None,
        worker_init_fn=DeathWish(tokens) if tokens is not None else None,
        **kept,  # type: ignore[arg-type]
    )


def expected(program: Program) -> list[list[Any]]:
    """Return the batches of 0 workers: PyTorch's own; ours in process where rows draw random numbers."""
    torch.manual_seed(program.seed)
    loader = loader_of(program, None)
    if not program.draws:
        return [list(loader) for _ in range(program.epochs)]
    with elastic(loader, workers=0):
        return [list(loader) for _ in range(program.epochs)]


def run(program: Program) -> dict[str, int]:
    """Run a program and compare; return how many workers were lost and batches done again."""
    wanted = expected(program)
    rng = random.Random(program.seed)
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder)
        torch.manual_seed(program.seed)
        loader = loader_of(program, tokens)
        with elastic(loader, program.workers, ElasticOptions(prefetch_factor=program.prefetch_factor)) as control:
            for epoch in range(program.epochs):
                step = 0
                for step, batch in enumerate(loader):
                    assert same(batch, wanted[epoch][step]), f"epoch {epoch}, batch {step} differs"
                    for kind, number in program.events.get((epoch, step), ()):
                        pids = [worker.pid for worker in control.workers()]
                        if kind == "resize":
                            control.resize(number)
                        elif kind.startswith("kill"):
                            for pid in pids if kind == "kill all" else rng.sample(pids, min(1, len(pids))):
                                _kill(pid)
                        else:
                            (tokens / kind).touch()
                assert step + 1 == len(wanted[epoch]) or not wanted[epoch], f"epoch {epoch} has {step + 1} batches"
            stats = control.stats()
        del loader
    return {"lost": stats.lost_workers, "redone": stats.redone_batches, "in process": stats.in_process_batches}


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def same(left: Any, right: Any) -> bool:
    """Return whether two batches are equal, to the byte and in type."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and bool(torch.equal(left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


def belongings() -> tuple[set[int], int, set[int], set[str]]:
    """Return this process's children, number of descriptors, threads, and the files in /dev/shm."""
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    threads = {thread.ident for thread in threading.enumerate() if thread.ident}
    return (
        children,
        len(list(Path("/proc/self/fd").iterdir())),
        threads,
        {path.name for path in Path("/dev/shm").iterdir()},
    )


def check_nothing_left(before: tuple[set[int], int, set[int], set[str]]) -> None:
    """Raise AssertionError if, after 10 s at most, there is more than ``before``."""
    until = time.monotonic() + 10
    gc.collect()  # an exception that was raised keeps its frames, and the iterator in them, in a cycle
    while True:
        now = belongings()
        mine = {name for name in now[3] - before[3] if f"_{os.getpid()}_" in name or name.startswith("torch_")}
        more = (now[0] - before[0], max(0, now[1] - before[1]), now[2] - before[2], mine)
        if not any(more):
            return
        assert time.monotonic() < until, f"left behind: children, descriptors, threads, shared memory = {more}"
        time.sleep(0.01)


def run_many(seeds: range, *, spawn_every: int) -> dict[str, int]:
    """Run the programs of ``seeds``, one in ``spawn_every`` under spawn (0: none); raise at the first that is wrong."""

    def too_late(_: int, frame: FrameType | None) -> None:
        raise AssertionError(f"a program hangs: over {DEADLINE_S} s")

    if spawn_every:
        resource_tracker.ensure_running()  # Python's own, started by the first spawn for the whole life of the process
    state.DEATHS_PER_BATCH = 10**9  # programs kill at random; being poisonous has its own tests
    total = {"lost": 0, "redone": 0, "in process": 0}
    previous = signal.signal(signal.SIGALRM, too_late)
    try:
        for seed in seeds:
            program = make_program(seed, spawn=spawn_every > 0 and seed % spawn_every == 0)
            before = belongings()
            signal.alarm(DEADLINE_S)
            try:
                counts = run(program)
                check_nothing_left(before)
            except Exception as error:
                raise AssertionError(f"{program}: {error}") from error
            finally:
                signal.alarm(0)
            total = {name: total[name] + counts[name] for name in total}
    finally:
        signal.signal(signal.SIGALRM, previous)
    return total


def main() -> None:
    """Run as many as asked."""
    parser = argparse.ArgumentParser(description="Random programs of the elastic loader against 0 workers.")
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--spawn-every", type=int, default=20)
    asked = parser.parse_args()
    logging.getLogger("lf_autoworkers.elastic").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    begun = time.monotonic()
    total = run_many(range(asked.first, asked.first + asked.programs), spawn_every=asked.spawn_every)
    print(f"{asked.programs} programs, 0 differences, 0 hangs, 0 leaks, {time.monotonic() - begun:.0f} s: {total}")


if __name__ == "__main__":
    main()
