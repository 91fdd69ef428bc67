"""Frames: whole or not at all, whatever piece of them arrives when; tasks both ways."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from lf_autoworkers.elastic import wire

TASK = wire.Task(wire.TASK, False, 3, 17, 2**64 - 1, b"indices")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def sent(theirs: socket.socket, body: bytes, fd: int | None = None) -> None:
    wire.send_result(theirs, wire.RESULT, TASK, body, fd, 10 if fd is not None else 0, (0.5, 0.25, 1000))


def test_a_result_carries_its_cost_and_its_descriptor(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    fd = os.memfd_create("x")
    os.write(fd, b"in the file")
    sent(theirs, b"body", fd)
    sent(theirs, b"")
    os.close(fd)
    first, second = wire.ResultReader(ours).read()
    assert (first.kind, first.generation, first.index) == (wire.RESULT, 3, 17)
    assert (first.cpu_s, first.wall_s, first.uss_bytes, bytes(first.body)) == (0.5, 0.25, 1000, b"body")
    assert first.fd is not None and os.pread(first.fd, 20, 0) == b"in the file"
    assert os.get_inheritable(first.fd) is False
    first.discard()
    assert second.fd is None and second.size_bytes == 0


@pytest.mark.parametrize("piece", [1, 7, 64, 1000])
def test_frames_in_pieces_are_whole_or_nothing(piece: int) -> None:
    source, sink = socket.socketpair()
    source.setblocking(False)
    for number in range(5):
        sent(sink, bytes([number]) * (300 * number))
    stream = b""
    with contextlib.suppress(BlockingIOError):
        while True:
            stream += source.recv(1 << 16)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    reader, frames = wire.ResultReader(ours), []
    for start in range(0, len(stream), piece):
        theirs.sendall(stream[start : start + piece])
        frames += reader.read()
    assert [bytes(frame.body) for frame in frames] == [bytes([number]) * (300 * number) for number in range(5)]
    for sock in (source, sink, ours, theirs):
        sock.close()


def test_a_torn_frame_is_dropped_with_its_descriptor(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    fd = os.memfd_create("x")
    before = len(list(os.scandir("/proc/self/fd")))
    theirs.sendmsg([b"\x02" * 10], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    theirs.close()
    reader = wire.ResultReader(ours)
    assert reader.read() == []
    assert reader.closed
    assert len(list(os.scandir("/proc/self/fd"))) == before - 1  # the sender's end
    os.close(fd)


def test_tasks_arrive_as_they_were_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    stop = wire.Task(wire.STOP, False, 0, 0, 0, b"")
    ours.send(wire.pack_task(TASK) + wire.pack_task(stop))
    assert wire.receive_task(theirs) == TASK
    assert wire.receive_task(theirs) == stop
    ours.close()
    assert wire.receive_task(theirs) is None
