"""What runs in a worker process: take index batches off the socket, make the batches, send them with what they cost.

Does NOT decide anything: when to leave, what to do again and whom to blame is the main process's business.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import random
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import _DatasetKind
from torch.utils.data._utils import signal_handling
from torch.utils.data._utils import worker as torch_worker

from lf_autoworkers.elastic import seeding, wire
from lf_autoworkers.elastic.payload import SendError, encode, warm_up

#: Added to the worker's own ``oom_score_adj`` (-1000 to 1000, proc(5)): the kernel then takes a worker, which the
#: loader survives, before the trainer, which it does not. Raising it needs no privilege.
OOM_SCORE_STEP = 500
#: How often an idle worker looks whether its parent is still there, seconds.
PARENT_CHECK_S = 2.0
#: Least time between two readings of the worker's private memory, seconds, and the share of the worker's time they may
#: take: smaps_rollup walks every page that a forked worker shares with its trainer, which for a large one takes long.
USS_EVERY_S, USS_SHARE = 2.0, 0.005
#: A batch is freed before the next is begun, and glibc hands the heap back each time, to fault in the same pages again:
#: a quarter of the time of photographs' batches (docs/elastic-loader.md). So a worker keeps some batches' worth
#: of heap when that is more than glibc keeps by itself (64 MiB), and 256 MiB at most: what one rare huge sample took
#: goes back. mallopt(3): up to _M_TRIM_THRESHOLD bytes stay, blocks up to _M_MMAP_THRESHOLD (32 MiB at most) are heap.
KEPT_BATCHES, LEAST_KEPT_BYTES, MOST_KEPT_BYTES = 6, 64 * 1024**2, 256 * 1024**2
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, HEAP_BLOCK_BYTES = -1, -3, 32 * 1024**2


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker needs; pickled under spawn and forkserver. ``parent_pid`` is None if the parent is a forkserver."""

    dataset: Any
    dataset_kind: int
    auto_collation: bool
    collate_fn: Callable[[Any], Any]
    drop_last: bool
    init_fn: Callable[[int], None] | None
    base_seed: int
    worker_id: int
    num_workers: int
    parent_pid: int | None


def worker_main(spec: WorkerSpec, sock: socket.socket, inherited: Sequence[socket.socket]) -> None:
    """Serve until told to stop, or until the main process is gone.

    Args:
        spec: What to load, and as whom.
        sock: This worker's end of its socket, blocking.
        inherited: Sockets of the main process that came along by fork; closed, so that its death is seen at once.
    """
    # Ctrl-C reaches the whole process group; the main process alone answers it, and then the socket closes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    for other in inherited:
        other.close()
    _volunteer_for_oom_killer()
    try:
        _serve(spec, sock)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the main process has closed its end or is gone
    finally:
        sock.close()


def _serve(spec: WorkerSpec, sock: socket.socket) -> None:
    try:
        fetcher = _prepare(spec)
    except Exception:
        _send_init_error(spec, sock)
        return
    parent_pid = os.getppid() if spec.parent_pid is None else spec.parent_pid
    uss_due_at = time.monotonic() + USS_EVERY_S
    kept_bytes = LEAST_KEPT_BYTES
    wire.send_result(sock, wire.HELLO, None, b"")
    while _wait_for_task(sock, parent_pid):
        task = wire.receive_task(sock)
        if task is None or task.kind == wire.STOP:
            return
        cpu_before, wall_before = time.process_time(), time.perf_counter()
        seeding.seed_generators(task.seed)
        try:
            value = fetcher.fetch(pickle.loads(task.body))
        except Exception:
            value = ExceptionWrapper(where=f"in DataLoader worker process {spec.worker_id}")  # type: ignore[no-untyped-call]
        cpu_s, wall_s = time.process_time() - cpu_before, time.perf_counter() - wall_before
        uss_bytes, begun = None, time.monotonic()
        if begun >= uss_due_at:
            uss_bytes = read_uss_bytes()
            read = time.monotonic()
            uss_due_at = read + max(USS_EVERY_S, (read - begun) / USS_SHARE)
        batch_bytes = _send(sock, task, value, (cpu_s, wall_s, uss_bytes))
        del value  # not kept in memory while waiting for the next task
        if kept_bytes < (wanted := min(KEPT_BATCHES * batch_bytes, MOST_KEPT_BYTES)):
            kept_bytes = wanted
            _keep_heap(kept_bytes)


def _prepare(spec: WorkerSpec) -> Any:
    """Set the process up as PyTorch's own worker loop does, and return the fetcher."""
    signal_handling._set_worker_signal_handlers()  # type: ignore[attr-defined]
    torch.multiprocessing._set_thread_name("pt_data_worker")
    torch.set_num_threads(1)
    seed = spec.base_seed + spec.worker_id
    random.seed(seed)
    torch.manual_seed(seed)
    try:
        import numpy
    except ImportError:
        pass
    else:
        state = torch_worker._generate_state(spec.base_seed, spec.worker_id)  # type: ignore[no-untyped-call]
        numpy.random.seed(state)
    torch_worker._worker_info = torch_worker.WorkerInfo(
        id=spec.worker_id, num_workers=spec.num_workers, seed=seed, dataset=spec.dataset
    )
    torch.UntypedStorage._new_shared = _new_private  # type: ignore[method-assign]
    warm_up()
    if spec.init_fn is not None:
        spec.init_fn(spec.worker_id)
    return _DatasetKind.create_fetcher(  # type: ignore[no-untyped-call]
        spec.dataset_kind, spec.dataset, spec.auto_collation, spec.collate_fn, spec.drop_last
    )


def _new_private(size: int, *, device: str | torch.device = "cpu") -> torch.UntypedStorage:
    """Stand in for the memory in /dev/shm that ``default_collate`` asks for in a worker.

    Its results go through memory files, so it would gain little; and a full /dev/shm is a SIGBUS there.
    """
    return torch.UntypedStorage(size, device=device)  # type: ignore[no-untyped-call]


def _wait_for_task(sock: socket.socket, parent_pid: int) -> bool:
    """Wait until something can be read; False if the parent is gone (a relative may hold its end of the socket)."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    while not poll.poll(PARENT_CHECK_S * 1000):
        if os.getppid() != parent_pid:
            return False
    return True


def _send(sock: socket.socket, task: wire.Task, value: Any, cost: tuple[float, float, int | None]) -> int:
    """Send a result and return the bytes of its memory file; 0 if it has none."""
    kind, fd, segment_bytes = wire.RESULT, None, 0
    try:
        body, fd, segment_bytes = encode(value, inline=task.inline)
    except SendError as error:
        kind, body = wire.UNSENT, str(error).encode()
    except Exception as error:
        kind, body = wire.UNSENDABLE, f"{type(error).__name__}: {error}".encode()
    try:
        wire.send_result(sock, kind, task, body, fd, segment_bytes, cost)
    finally:
        if fd is not None:
            os.close(fd)
    return segment_bytes


def _send_init_error(spec: WorkerSpec, sock: socket.socket) -> None:
    wrapper = ExceptionWrapper(where=f"in DataLoader worker process {spec.worker_id}")  # type: ignore[no-untyped-call]
    try:
        body = pickle.dumps(wrapper)
    except Exception:  # an exception class made inside a function; its traceback is text and always goes
        wrapper.exc_type = RuntimeError
        body = pickle.dumps(wrapper)
    wire.send_result(sock, wire.INIT_FAILED, None, body)


def _volunteer_for_oom_killer() -> None:
    path = Path("/proc/self/oom_score_adj")
    # Without a proc file system, or where it is not allowed, the kernel chooses as it always does.
    with contextlib.suppress(OSError, ValueError):
        path.write_text(str(min(1000, int(path.read_text()) + OOM_SCORE_STEP)))


def _keep_heap(size: int) -> None:
    """Have glibc keep ``size`` bytes of what a batch needed for the next one, unless the user has said otherwise."""
    if any(name.startswith("MALLOC_") and name.endswith("_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return
    with contextlib.suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, HEAP_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, size)


def read_uss_bytes(pid: int | None = None) -> int | None:
    """Return the memory private to a process (this one by default), in bytes; None if it cannot be read."""
    try:
        lines = Path(f"/proc/{pid or 'self'}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    private = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
    return 1024 * sum(private) if private else None
