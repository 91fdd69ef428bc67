"""How frames cross between a worker and the main process: one stream socket per worker, one writer on each end.

A frame is a fixed header and a body; the descriptor of a result's memory file rides along with its header, so a frame
that has been read is whole even if its worker is dead by then. A frame torn by a death never becomes one.

Does NOT say what a body holds (`payload.py`), nor own sockets' and processes' lives (`process.py`).
"""

from __future__ import annotations

import array
import ctypes
import os
import socket
import struct
from dataclasses import dataclass

from lf_autoworkers.elastic.payload import ALIGNMENT

HELLO, RESULT, UNSENT, UNSENDABLE, INIT_FAILED, TASK, STOP = range(1, 8)

#: kind, with a memory file, generation, batch index, body bytes, memory file bytes, CPU s, wall s, private bytes
_RESULT_HEADER = struct.Struct("<BBxxiqQQddq")
#: kind, inline wanted, generation, batch index, seed, body bytes
_TASK_HEADER = struct.Struct("<BBxxiqQQ")


@dataclass(frozen=True, slots=True)
class Result:
    """One frame from a worker. ``fd`` is owned by whoever holds this; `decode` and `discard` give it up."""

    kind: int
    generation: int
    index: int
    cpu_s: float
    wall_s: float
    uss_bytes: int | None
    size_bytes: int
    body: memoryview
    segment_bytes: int
    fd: int | None

    def discard(self) -> None:
        """Drop what came with the frame."""
        if self.fd is not None:
            os.close(self.fd)


@dataclass(frozen=True, slots=True)
class Task:
    """One frame to a worker."""

    kind: int
    inline: bool
    generation: int
    index: int
    seed: int
    body: bytes


def send_result(
    sock: socket.socket,
    kind: int,
    task: Task | None,
    body: bytes,
    fd: int | None = None,
    segment_bytes: int = 0,
    cost: tuple[float, float, int | None] = (0.0, 0.0, None),
) -> None:
    """Write one whole frame on a blocking socket (worker side)."""
    cpu_s, wall_s, uss_bytes = cost
    generation, index = (task.generation, task.index) if task else (0, 0)
    uss = -1 if uss_bytes is None else uss_bytes
    header = _RESULT_HEADER.pack(kind, fd is not None, generation, index, len(body), segment_bytes, cpu_s, wall_s, uss)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
    frame = memoryview(header + body)
    sent = sock.sendmsg([frame], ancillary)
    if sent < len(frame):
        sock.sendall(frame[sent:])


class ResultReader:
    """Takes frames off a non-blocking socket, as far as they have come (main side)."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._header = bytearray(_RESULT_HEADER.size)
        self._body: memoryview | None = None
        self._have = 0
        self._fd: int | None = None
        self.closed = False

    def read(self) -> list[Result]:
        """Return the frames that are complete now; sets `closed` at the end of the stream or on any socket error."""
        frames: list[Result] = []
        while not self.closed:
            if self._body is None and self._have == _RESULT_HEADER.size:
                self._body, self._have = aligned_buffer(_RESULT_HEADER.unpack(self._header)[4]), 0
            if self._body is not None and self._have == len(self._body):
                frames.append(self._take())
                continue
            try:
                if not self._receive():
                    self.close()
            except BlockingIOError:
                break
            except OSError:
                self.close()
        return frames

    def _receive(self) -> int:
        if self._body is not None:
            received = self._sock.recv_into(self._body[self._have :])
        else:
            space = memoryview(self._header)[self._have :]
            received, ancillary, _, _ = self._sock.recvmsg_into([space], socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(content) >= 4:
                    self._fd = array.array("i", content[:4])[0]
        self._have += received
        return received

    def _take(self) -> Result:
        kind, _, generation, index, length, segment_bytes, cpu_s, wall_s, uss = _RESULT_HEADER.unpack(self._header)
        assert self._body is not None
        frame = Result(
            kind,
            generation,
            index,
            cpu_s,
            wall_s,
            None if uss < 0 else uss,
            length + segment_bytes,
            self._body,
            segment_bytes,
            self._fd,
        )
        self._body, self._have, self._fd = None, 0, None
        return frame

    def close(self) -> None:
        """Drop what is incomplete."""
        self.closed = True
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def aligned_buffer(size: int) -> memoryview:
    """Return ``size`` writable bytes whose address is a multiple of `ALIGNMENT`."""
    block = bytearray(size + ALIGNMENT)
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    start = -address % ALIGNMENT
    return memoryview(block)[start : start + size]


def pack_task(task: Task) -> bytes:
    """Return the bytes of one frame to a worker."""
    header = _TASK_HEADER.pack(task.kind, task.inline, task.generation, task.index, task.seed, len(task.body))
    return header + task.body


def receive_task(sock: socket.socket) -> Task | None:
    """Read one frame from a blocking socket (worker side); None at the end of the stream."""
    header = _receive_exactly(sock, _TASK_HEADER.size)
    if header is None:
        return None
    kind, inline, generation, index, seed, length = _TASK_HEADER.unpack(header)
    body = _receive_exactly(sock, length)
    return None if body is None else Task(kind, bool(inline), generation, index, seed, body)


def _receive_exactly(sock: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = sock.recv(size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)
