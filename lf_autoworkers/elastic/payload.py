"""What a batch looks like between processes: a pickle, and beside it the big parts of it, copied once.

`encode` leaves tensor storages and array buffers out of the pickle. Small results become one block of bytes; anything
above `INLINE_LIMIT_BYTES` is written to one anonymous memory file (memfd). So a batch costs one descriptor, no name in
/dev/shm (its size does not matter and nothing can be left there), and a full machine is an `OSError` in the worker
(`SendError`), never a SIGBUS. `decode` maps the file and makes tensors on top of it, without another copy.

Does NOT move anything from one process to the other: `wire.py` does.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import os
import pickle
import struct
import threading
import weakref
from collections.abc import Iterable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.multiprocessing import reductions

#: Above this a result goes through a memory file.
INLINE_LIMIT_BYTES = 64 * 1024
#: What torch's CPU allocator aligns to; on less, kernels may sum in another order and losses differ in the last digit.
ALIGNMENT = 64

_COUNTS = struct.Struct("<QQQ")
_REGION = struct.Struct("<QQ")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_MAP_POPULATE = 0x8000  # mmap(2): fault the pages in here, not later on the consumer's thread
_MADV_DONTFORK, _MADV_DOFORK = 10, 11  # madvise(2)
_rebuilding = threading.local()


class SendError(Exception):
    """The system has no room or no descriptor for this result; it can go through the socket instead."""


class SegmentLostError(Exception):
    """The memory file of a result did not come along or cannot be mapped; the result can be asked for again, inline."""


class Segment:
    """A memory file mapped into this process; lives as long as anything made from its `buffer`."""

    def __init__(self, fd: int, size: int) -> None:
        address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_POPULATE, fd, 0)
        if address in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), "mapping a batch failed")
        self._address, self._size = address, size
        self.buffer = (ctypes.c_char * size).from_address(address)
        # After a fork another mapping may live at this address in the child: only the process that mapped may unmap.
        weakref.finalize(self.buffer, _unmap, os.getpid(), address, size).atexit = False

    def inherit(self, yes: bool) -> None:
        """Say whether processes forked from now on get this mapping (and so keep its memory while they live)."""
        _libc.madvise(self._address, self._size, _MADV_DOFORK if yes else _MADV_DONTFORK)


def _unmap(pid: int, address: int, size: int) -> None:
    if os.getpid() == pid:
        _libc.munmap(address, size)


class _Regions:
    """The big parts of a value (tensor storages, array buffers), in the order they were met."""

    def __init__(self) -> None:
        self.views: list[memoryview] = []
        self.buffer_numbers: list[int] = []
        self._storages: dict[int, tuple[int, torch.UntypedStorage]] = {}

    def add_buffer(self, buffer: pickle.PickleBuffer) -> None:
        self.buffer_numbers.append(len(self.views))
        self.views.append(buffer.raw())

    def number_of(self, storage: torch.UntypedStorage) -> int:
        key = storage._cdata
        if key not in self._storages:
            size = storage.nbytes()
            view = memoryview((ctypes.c_char * size).from_address(storage.data_ptr())) if size else memoryview(b"")
            self._storages[key] = (len(self.views), storage)
            self.views.append(view)
        return self._storages[key][0]


class _Pickler(ForkingPickler):
    """Pickles as torch.multiprocessing does, but leaves the content of CPU storages and arrays in ``regions``."""

    def __init__(self, stream: io.BytesIO, regions: _Regions) -> None:
        super().__init__(stream, 5, True, regions.add_buffer)

        def reduce_storage(storage: torch.UntypedStorage) -> Any:
            if storage.device.type != "cpu":
                return reductions.reduce_storage(storage)  # type: ignore[no-untyped-call]
            return _storage, (regions.number_of(storage),)

        table: dict[type, Any] = self.dispatch_table
        table[torch.UntypedStorage] = reduce_storage
        table[torch.Tensor] = _reduce_tensor


def _reduce_tensor(tensor: torch.Tensor) -> Any:
    """As torch's, but a small view of something big (one row of a dataset held in memory) goes without the rest."""
    if tensor.layout is torch.strided and tensor.device.type == "cpu" and (tensor.is_leaf or not tensor.requires_grad):
        used = tensor.numel() * tensor.element_size()
        if tensor.untyped_storage().nbytes() > 2 * used + INLINE_LIMIT_BYTES:
            tensor = tensor.detach().clone().requires_grad_(tensor.requires_grad)
    return reductions.reduce_tensor(tensor)  # type: ignore[no-untyped-call]


def _storage(number: int) -> torch.UntypedStorage:
    """Give the storage of a region of the frame being decoded; several tensors may share it."""
    made: dict[int, torch.UntypedStorage] = _rebuilding.storages
    if number not in made:
        view = _rebuilding.views[number]
        made[number] = (
            torch.frombuffer(view, dtype=torch.uint8).untyped_storage()
            if len(view)
            else torch.empty(0, dtype=torch.uint8).untyped_storage()
        )
    return made[number]


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def encode(value: Any, *, inline: bool) -> tuple[bytes, int | None, int]:
    """Return the body, the memory file's descriptor (None if there is none) and its size in bytes.

    Raises:
        SendError: there is no room for the memory file (``inline=True`` needs none).
        Exception: whatever pickling raises, if ``value`` cannot be pickled.
    """
    regions = _Regions()
    stream = io.BytesIO()
    _Pickler(stream, regions).dump(value)
    pickled = stream.getbuffer()
    views = [pickled, *regions.views]
    offsets, end = [], 0
    for view in views:
        offsets.append(end)
        end = _aligned(end + view.nbytes)
    table = _COUNTS.pack(len(views), len(regions.buffer_numbers), end) + b"".join(
        [_REGION.pack(offset, view.nbytes) for offset, view in zip(offsets, views, strict=True)]
        + [number.to_bytes(8, "little") for number in regions.buffer_numbers]
    )
    if inline or end <= INLINE_LIMIT_BYTES:
        parts: list[bytes | memoryview] = [table, bytes(_aligned(len(table)) - len(table))]
        for view in views:
            parts += [view, bytes(_aligned(view.nbytes) - view.nbytes)]
        return b"".join(parts), None, 0
    return table, _write_segment(views, offsets, end), end


def warm_up() -> None:
    """Have what pickling a tensor imports imported now, while there are descriptors to open files with."""
    encode(torch.empty(1), inline=True)


def _write_segment(views: Iterable[memoryview], offsets: Iterable[int], size: int) -> int:
    try:
        fd = os.memfd_create("lf-autoworkers-batch", os.MFD_CLOEXEC)
    except OSError as error:
        raise SendError(f"no memory file for a result of {size} bytes: {error}") from error
    try:
        os.ftruncate(fd, size)
        for view, offset in zip(views, offsets, strict=True):
            rest = view.cast("B") if view.nbytes else view
            while rest.nbytes:
                written = os.pwrite(fd, rest, offset)
                rest, offset = rest[written:], offset + written
    except OSError as error:
        os.close(fd)
        raise SendError(f"no room in memory for a result of {size} bytes: {error}") from error
    return fd


def decode(body: memoryview, fd: int | None, segment_bytes: int) -> tuple[Any, Segment | None]:
    """Return the value and what it is mapped from; closes ``fd`` in any case.

    Args:
        body: What `encode` returned, in a writable buffer aligned to `ALIGNMENT`; tensors of an inline result keep it.
        fd: The memory file; None if there is none, or if it did not come along.
        segment_bytes: The memory file's size; 0 for an inline result.

    Raises:
        SegmentLostError: ``fd`` is missing, or the file cannot be mapped.
        Exception: whatever unpickling raises.
    """
    count, buffers, end = _COUNTS.unpack_from(body)
    regions_end = _COUNTS.size + count * _REGION.size
    regions = [_REGION.unpack_from(body, _COUNTS.size + number * _REGION.size) for number in range(count)]
    numbers = [int.from_bytes(body[regions_end + 8 * k : regions_end + 8 * k + 8], "little") for k in range(buffers)]
    segment: Segment | None = None
    if segment_bytes:
        if fd is None:
            raise SegmentLostError("out of file descriptors in the main process")
        try:
            segment = Segment(fd, segment_bytes)
        except OSError as error:
            raise SegmentLostError(str(error)) from error
        finally:
            os.close(fd)
        whole = memoryview(segment.buffer).cast("B")
    else:
        start = _aligned(regions_end + 8 * buffers)
        whole = body[start : start + end]
    views = [whole[offset : offset + size] for offset, size in regions]
    _rebuilding.views, _rebuilding.storages = views[1:], {}
    try:
        return pickle.loads(views[0], buffers=[views[1 + number] for number in numbers]), segment
    finally:
        del _rebuilding.views, _rebuilding.storages
