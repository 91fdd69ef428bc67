"""One seed per batch, so that what a dataset draws does not depend on who makes the batch, or how often.

Covers the CPU generators of python, numpy and torch. Does NOT touch a device's generators: workers have none, and
those of the main process belong to the training step.
"""

from __future__ import annotations

import hashlib
import random
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def batch_seed(base_seed: int, epoch: int, rank: int, index: int) -> int:
    """Return 64 bits that differ for each (base seed, epoch, rank, batch)."""
    key = struct.pack("<qqqq", base_seed, epoch, rank, index)
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


def seed_generators(seed: int) -> None:
    """Seed python's, torch's CPU and (if it is imported) numpy's global generator from one number, independently."""
    digest = hashlib.blake2b(seed.to_bytes(8, "little"), digest_size=32).digest()
    for_python, for_torch, *for_numpy = struct.unpack("<QqIIII", digest)
    random.seed(for_python)
    torch.default_generator.manual_seed(for_torch)
    if "numpy" in sys.modules:
        import numpy

        numpy.random.seed(for_numpy)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Put the three generators back as they were, whatever happens inside."""
    python_state, torch_state = random.getstate(), torch.default_generator.get_state()
    numpy_state = None
    if "numpy" in sys.modules:
        import numpy

        numpy_state = numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        torch.default_generator.set_state(torch_state)
        if numpy_state is not None:
            numpy.random.set_state(numpy_state)
