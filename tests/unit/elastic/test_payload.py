"""What a batch looks like between processes: equal on the other side, aliasing kept, nothing copied twice."""

from __future__ import annotations

import collections
import gc
import os
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lf_autoworkers.elastic import payload, wire
from lf_autoworkers.elastic.payload import ALIGNMENT, INLINE_LIMIT_BYTES, SegmentLostError, SendError, decode, encode
from tests.property.elastic_programs import same

Point = collections.namedtuple("Point", "x y")


def there_and_back(value: Any, *, inline: bool = False) -> Any:
    body, fd, size = encode(value, inline=inline)
    buffer = wire.aligned_buffer(len(body))
    buffer[:] = body
    return decode(buffer, fd, size)[0]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


VALUES: dict[str, Any] = {
    "small": {"ids": torch.arange(10), "mask": torch.ones(3, dtype=torch.bool)},
    "large": {"pixels": torch.randn(300, 1000), "ids": torch.arange(10)},
    "empty": [torch.empty(0), torch.empty(0, 5), np.empty((0, 2)), {}, b"", ""],
    "half": torch.randn(400, 300).bfloat16(),
    "arrays": [np.arange(100_000).reshape(100, -1), np.array(["a", None], dtype=object), np.float32(3)],
    "objects": [Point(1, torch.ones(2)), None, {"text": "x" * 200_000}, b"y" * 200_000, 3.5, {1, 2}],
    "transposed": torch.randn(300, 500).t(),
    "expanded": torch.randn(1, 500).expand(1000, 500),
    "scalar": torch.tensor(7),
    "complex": torch.randn(5, dtype=torch.complex64),
}


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("name", VALUES)
def test_every_value_comes_back_equal(name: str, inline: bool) -> None:
    value = VALUES[name]
    back = there_and_back(value, inline=inline)
    if isinstance(value, list) and name == "arrays":
        assert all(np.array_equal(a, b) and type(a) is type(b) for a, b in zip(value, back, strict=True))
    elif name == "empty":
        assert [tuple(getattr(part, "shape", ())) for part in value] == [
            tuple(getattr(part, "shape", ())) for part in back
        ]
    else:
        assert same(value, back)


def test_views_of_one_storage_still_share_it_and_nothing_else_does() -> None:
    base = torch.arange(100_000)
    whole, half, other = there_and_back([base, base[50_000:], torch.arange(100_000)])
    whole[60_000] = -1
    assert half[10_000] == -1
    assert other[60_000] == 60_000


def test_a_row_of_a_big_tensor_goes_without_the_rest() -> None:
    rows = torch.randn(1000, 10_000)
    body, fd, size = encode(rows[3], inline=False)
    assert fd is None and size == 0
    assert len(body) < 2 * INLINE_LIMIT_BYTES
    assert torch.equal(there_and_back(rows[3]), rows[3])


@pytest.mark.parametrize("inline", [False, True])
def test_tensors_are_aligned_as_torch_aligns_them(inline: bool) -> None:
    for tensor in there_and_back([torch.randn(1001), torch.randn(7), torch.randn(30_003)], inline=inline):
        assert tensor.data_ptr() % ALIGNMENT == 0


def test_a_leaf_that_wants_gradients_still_does() -> None:
    assert there_and_back(torch.ones(3, requires_grad=True)).requires_grad
    with pytest.raises(RuntimeError, match="non-leaf"):
        encode(torch.ones(3, requires_grad=True) * 2, inline=False)


def test_a_batch_costs_no_descriptor_once_it_is_here_and_no_memory_once_it_is_gone() -> None:
    before = descriptors()
    batch = there_and_back(torch.randn(1_000_000))
    assert descriptors() == before
    assert "lf-autoworkers-batch" in Path("/proc/self/maps").read_text()
    del batch
    gc.collect()
    assert "lf-autoworkers-batch" not in Path("/proc/self/maps").read_text()


def test_no_descriptor_left_is_an_error_that_says_so_and_inline_needs_none() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(SendError, match="Too many open files"):
            encode(torch.randn(100_000), inline=False)
        body, fd, _ = encode(torch.randn(100_000), inline=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert fd is None and len(body) > 400_000


def test_a_file_size_limit_is_an_error_too_and_leaves_no_descriptor() -> None:
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = descriptors()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(SendError, match="no room in memory"):
            encode(torch.randn(100_000), inline=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert descriptors() == before


def test_a_result_without_its_memory_file_is_told() -> None:
    body, fd, size = encode(torch.randn(100_000), inline=False)
    assert fd is not None
    os.close(fd)
    buffer = wire.aligned_buffer(len(body))
    buffer[:] = body
    with pytest.raises(SegmentLostError):
        decode(buffer, None, size)


def test_what_cannot_be_unpickled_gives_its_descriptor_back() -> None:
    body, fd, size = encode([torch.randn(100_000), _Broken()], inline=False)
    before = descriptors()
    buffer = wire.aligned_buffer(len(body))
    buffer[:] = body
    with pytest.raises(ZeroDivisionError):
        decode(buffer, fd, size)
    assert descriptors() == before - 1
    assert not hasattr(payload._rebuilding, "views")


class _Broken:
    def __reduce__(self) -> Any:
        return _divide, ()


def _divide() -> float:
    return 1 / 0
