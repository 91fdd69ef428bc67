"""One worker process seen from the main process: started, spoken to, killed, buried.

Does NOT know what the worker works on; `pool.py` does.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

from lf_autoworkers.elastic import wire
from lf_autoworkers.elastic.worker import WorkerSpec, worker_main

#: Held by whoever forks, and by our own threads while they are not asleep: a child is then never forked while one of
#: them holds a lock (of the allocator, of logging, of torch) that the child would wait for in vain.
_gate = threading.RLock()


def fork_gate() -> threading.RLock:
    """Return this process's gate."""
    return _gate


def _new_gate() -> None:
    global _gate
    _gate = threading.RLock()


os.register_at_fork(after_in_child=_new_gate)


@dataclass(frozen=True)
class Death:
    """How a worker ended; see `api.WorkerLost`."""

    signal: int | None
    exit_code: int | None
    oom_killed: bool | None
    oom_kills_before: int | None
    oom_kills_after: int | None


class WorkerProcess:
    """A started worker and the main process's end of its socket.

    Attributes:
        serial: Names it for good, see `messages.py`.
        started_at, hello_at, busy_since, stopped_at: Monotonic seconds; None where it has not come to that.
        by_us: We sent the signal it dies of.
        hang_told: The batch in its hands was already found to take too long.
        death: How it ended, once it has.
        uss_bytes, uss_read_at: Its private memory when it last told.
    """

    def __init__(self, serial: int, worker_id: int, process: BaseProcess, sock: socket.socket) -> None:
        self.serial = serial
        self.worker_id = worker_id
        self.process = process
        self.sock = sock
        self.reader = wire.ResultReader(sock)
        self.pid: int = process.pid or 0
        self.started_at = time.monotonic()
        self.hello_at: float | None = None
        self.busy_since: float | None = None
        self.stopped_at: float | None = None
        self.by_us = False
        self.hang_told = False
        self.death: Death | None = None
        self.uss_bytes: int | None = None
        self.uss_read_at: float | None = None
        self._unsent = bytearray()
        self._epoll: select.epoll | None = None

    def watch(self, epoll: select.epoll) -> None:
        """Wake ``epoll`` for results and for the process's end."""
        self._epoll = epoll
        epoll.register(self.sock, select.EPOLLIN)
        epoll.register(self.process.sentinel, select.EPOLLIN)

    def unwatch_socket(self) -> None:
        """Look at the socket no more (it is at its end); the process's end still wakes."""
        if self._epoll is not None:
            with contextlib.suppress(OSError, ValueError):
                self._epoll.unregister(self.sock)

    def send(self, frame: bytes) -> None:
        """Send without ever waiting for the worker; what does not fit goes when the collector sees room."""
        self._unsent += frame
        self.flush()

    def flush(self) -> None:
        """Send what is left over, as far as it goes. A broken socket is no news here: the death itself will be seen."""
        waiting = False
        while self._unsent:
            try:
                sent = self.sock.send(self._unsent)
            except BlockingIOError:
                waiting = True
                break
            except OSError:
                self._unsent.clear()
                break
            del self._unsent[:sent]
        if self._epoll is not None:
            with contextlib.suppress(OSError, ValueError):
                self._epoll.modify(self.sock, select.EPOLLIN | (select.EPOLLOUT if waiting else 0))

    def kill(self) -> None:
        """SIGKILL, by ourselves."""
        self.by_us = True
        with contextlib.suppress(OSError, ValueError):
            self.process.kill()

    def gone(self, wait_s: float = 0.0) -> bool:
        """Reap the process if it has ended, waiting at most ``wait_s`` seconds for that."""
        with contextlib.suppress(OSError, AssertionError, ValueError):
            self.process.join(wait_s)
        return self.process.exitcode is not None

    def hang_up(self) -> None:
        """Close the conversation: the worker leaves after the batch in its hands at the latest."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def bury(self) -> None:
        """Give back every descriptor. Only after the process is gone."""
        if self._epoll is not None:
            for watched in (self.sock, self.process.sentinel):
                with contextlib.suppress(OSError, ValueError):
                    self._epoll.unregister(watched)
        self.reader.close()
        self.sock.close()
        with contextlib.suppress(ValueError):
            self.process.close()


def start_worker(context: BaseContext, spec: WorkerSpec, serial: int, others: Sequence[socket.socket]) -> WorkerProcess:
    """Start one worker. The caller holds `fork_gate`.

    Args:
        context: Whose start method to use.
        spec: What the worker does.
        serial: Its name for good.
        others: Main-side sockets of other workers, to be closed in a forked child.

    Raises:
        OSError: no process, no descriptor or no memory to be had.
        Exception: whatever pickling ``spec`` raises under spawn and forkserver.
    """
    forked = context.get_start_method() == "fork"
    ours, theirs = socket.socketpair()
    try:
        ours.setblocking(False)
        inherited = (ours, *others) if forked else ()
        process = context.Process(  # type: ignore[attr-defined]
            target=worker_main, args=(spec, theirs, inherited), daemon=True, name=f"elastic-worker-{spec.worker_id}"
        )
        with _quiet_fork():
            process.start()
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return WorkerProcess(serial, spec.worker_id, process, ours)


@contextlib.contextmanager
def no_interrupt() -> Iterator[None]:
    """Put Ctrl-C off: a child is born with it blocked (until it ignores it), and is known to us before it comes."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _quiet_fork() -> Iterator[None]:
    """Python 3.12 and later warn of any fork beside a thread; the gate and the hello time-out are our answer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
        yield
