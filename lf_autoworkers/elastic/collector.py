"""The one thread beside the consumer: reads results as they come, sees workers die, watches the clock.

It never forks, never pulls the sampler and never waits for a single worker. If it fails itself (a bug of ours), the
workers are put down and the consumer makes every batch in process: slower, not lost.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from torch._utils import ExceptionWrapper

from lf_autoworkers.elastic import messages as m
from lf_autoworkers.elastic import wire
from lf_autoworkers.elastic.api import BatchCost, BatchUnsent, WorkerStarted
from lf_autoworkers.elastic.payload import Segment, SegmentLostError, decode
from lf_autoworkers.elastic.process import Death, WorkerProcess, fork_gate

if TYPE_CHECKING:
    from lf_autoworkers.elastic.pool import Pool

#: Longest sleep of the thread: the grain of time-outs, seconds.
TICK_S = 0.25
#: How long a worker may take to leave once it was told to, before it is killed (PyTorch waits as long), seconds.
LEAVE_S = 5.0


@dataclass(frozen=True)
class Stored:
    """A batch that waits for its turn: its value (or the error in its place) and what it is mapped from."""

    value: Any
    segment: Segment | None = None


class Collector:
    """Owner of the thread, which is started with the first worker.

    Args:
        pool: Whose workers to look after.
        pin: Done to each batch here (pinning), and once here before the first (the device); None for nothing.
    """

    def __init__(self, pool: Pool, pin: tuple[Callable[[Any], Any], Callable[[], None]] | None) -> None:
        self._pool = pool
        self._pin = pin
        self._thread: threading.Thread | None = None
        self._epoll: select.epoll | None = None
        self._bell = -1
        self._by_fd: dict[int, WorkerProcess] = {}
        self._next_tick = 0.0

    def watch(self, process: WorkerProcess) -> None:
        """Look after one more worker. Called by the consumer, which holds the fork gate."""
        if self._epoll is None:
            self._epoll = select.epoll()
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._epoll.register(self._bell, select.EPOLLIN)
            self._thread = threading.Thread(target=self._loop, name="elastic-loader", daemon=True)
            self._thread.start()
        for fd in (process.sock.fileno(), process.process.sentinel):
            self._by_fd[fd] = process
        process.watch(self._epoll)

    def ring(self) -> None:
        """Wake the thread; safe anywhere, also in a garbage collection."""
        if self._bell >= 0:
            with contextlib.suppress(OSError):
                os.eventfd_write(self._bell, 1)

    def join(self) -> None:
        """Wait until the thread has put everything away."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(2 * LEAVE_S)

    def _loop(self) -> None:
        try:
            if self._pin is not None:
                with fork_gate():
                    self._pin[1]()
            assert self._epoll is not None
            while not self._pool.closed:
                ready = self._epoll.poll(TICK_S)
                with fork_gate():
                    if not self._pool.closed:
                        self._round(ready)
        except Exception:
            self._pool.run.options.logger.exception(
                "the elastic loader's thread failed; every batch is made in the main process from here on"
            )
            self._pool.collapse()
        finally:
            self._put_away()

    def _round(self, ready: list[tuple[int, int]]) -> None:
        for fd, mask in ready:
            process = self._by_fd.get(fd)
            if fd == self._bell:
                os.eventfd_read(self._bell)
            elif process is None:
                continue
            elif fd == process.process.sentinel:
                self._ended(process)
            else:
                if mask & select.EPOLLOUT:
                    with self._pool.lock:
                        process.flush()
                if mask & ~select.EPOLLOUT:
                    self._receive(process)
        if time.monotonic() >= self._next_tick:
            self._next_tick = time.monotonic() + TICK_S
            self._watch_clocks()
        self._pool.flush_events()

    def _receive(self, process: WorkerProcess) -> None:
        for frame in process.reader.read():
            match frame.kind:
                case wire.HELLO:
                    self._said_hello(process)
                case wire.INIT_FAILED:
                    error = pickle.loads(frame.body)
                    with self._pool.lock:
                        self._pool.note_init_error(error)
                        self._pool.carry_out(self._pool.state.handle(m.InitFailed(process.serial)))
                case _:
                    self._take(process, frame)
        if process.reader.closed:
            process.unwatch_socket()
            process.stopped_at = process.stopped_at or time.monotonic()

    def _said_hello(self, process: WorkerProcess) -> None:
        process.hello_at = time.monotonic()
        event = WorkerStarted(process.pid, process.worker_id, process.hello_at - process.started_at)
        with self._pool.lock:
            self._pool.say(event)
            self._pool.carry_out(self._pool.state.handle(m.SaidHello(process.serial)))

    def _take(self, process: WorkerProcess, frame: wire.Result) -> None:
        pool = self._pool
        outcome, stored, reason = m.Outcome.SENT, None, ""
        if frame.kind == wire.RESULT:
            if frame.generation != pool.state.generation:
                frame.discard()
            else:
                outcome, stored, reason = self._open(frame)
        else:
            outcome = m.Outcome.UNSENT if frame.kind == wire.UNSENT else m.Outcome.UNSENDABLE
            reason = bytes(frame.body).decode(errors="replace")
        event = m.Arrived(process.serial, frame.generation, frame.index, outcome, frame.wall_s)
        with pool.lock:
            instructions = pool.state.handle(event)
            now = time.monotonic()
            process.busy_since = now if pool.state.holds(process.serial) else None
            process.hang_told = False
            if frame.uss_bytes is not None:
                process.uss_bytes, process.uss_read_at = frame.uss_bytes, now
            if outcome is not m.Outcome.SENT:
                pool.say(BatchUnsent(process.pid, frame.index, reason))
            pool.carry_out(instructions, stored)
        if stored is not None:
            cost = BatchCost(frame.index, frame.cpu_s, frame.wall_s, frame.size_bytes, process.pid)
            pool.run.note_cost(cost)

    def _open(self, frame: wire.Result) -> tuple[m.Outcome, Stored | None, str]:
        try:
            value, segment = decode(frame.body, frame.fd, frame.segment_bytes)
        except SegmentLostError as error:
            return m.Outcome.UNSENT, None, str(error)
        except Exception as error:
            return m.Outcome.UNSENDABLE, None, f"{type(error).__name__}: {error}"
        if self._pin is None or isinstance(value, ExceptionWrapper):
            return m.Outcome.SENT, Stored(value, segment), ""
        try:
            return m.Outcome.SENT, Stored(self._pin[0](value)), ""
        except Exception:
            where = "in the thread that pins memory"
            return m.Outcome.SENT, Stored(ExceptionWrapper(where=where)), ""  # type: ignore[no-untyped-call]

    def _ended(self, process: WorkerProcess) -> None:
        """Take what a dead worker has still sent, then bury it."""
        self._receive(process)
        if not process.gone(wait_s=1.0):
            return
        exit_code = process.process.exitcode
        signal_number = -exit_code if exit_code is not None and exit_code < 0 else None
        oom_killed, before, after = self._pool.run.oom_verdict(None if process.by_us else signal_number)
        process.death = Death(signal_number, exit_code if signal_number is None else None, oom_killed, before, after)
        cause = m.Cause.OURS if process.by_us else m.Cause.OOM if oom_killed else m.Cause.CRASH
        with self._pool.lock:
            self._pool.carry_out(self._pool.state.handle(m.Died(process.serial, cause)))
            del self._pool.processes[process.serial]
        self._forget(process)

    def _forget(self, process: WorkerProcess) -> None:
        for fd in (process.sock.fileno(), process.process.sentinel):
            self._by_fd.pop(fd, None)
        process.bury()

    def _watch_clocks(self) -> None:
        now = time.monotonic()
        hang_s = self._pool.run.hang_timeout_s()
        for process in list(self._by_fd.values()):
            if process.serial not in self._pool.processes:
                continue
            event: m.Event | None = None
            if process.hello_at is None and not process.by_us and now - process.started_at > self._pool.hello_timeout_s:
                event = m.HelloOverdue(process.serial)
            elif hang_s is not None and process.busy_since is not None and now - process.busy_since > hang_s:
                event = None if process.hang_told else m.BatchOverdue(process.serial)
                process.hang_told = True
            if event is not None:
                with self._pool.lock:
                    self._pool.carry_out(self._pool.state.handle(event))
            if process.stopped_at is not None and now - process.stopped_at > LEAVE_S:
                process.kill()
            if process.gone():  # usually seen at once; a grandchild that holds our descriptors can hide it
                self._ended(process)

    def _put_away(self) -> None:
        """End every worker and give everything back: no process, descriptor or thread is left after this."""
        with self._pool.lock:
            processes = list(self._pool.processes.values())
            self._pool.processes.clear()
        for process in processes:
            process.hang_up()
        until = time.monotonic() + LEAVE_S
        left = {process.process.sentinel: process for process in processes}
        while left and (rest := until - time.monotonic()) > 0:
            for process in [left[sentinel] for sentinel in wait(list(left), rest) if isinstance(sentinel, int)]:
                if process.gone(wait_s=1.0):
                    del left[process.process.sentinel]
        for process in left.values():
            process.kill()
        for process in processes:
            process.gone(wait_s=LEAVE_S)
            self._forget(process)
        if self._epoll is not None:
            self._epoll.close()
            bell, self._bell = self._bell, -1
            os.close(bell)
