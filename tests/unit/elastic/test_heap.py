"""A worker keeps a batch's memory for the next one, unless the user's own malloc settings say otherwise."""

from __future__ import annotations

import platform
import resource

import pytest
import torch
from pytest_mock import MockerFixture
from torch.utils.data import DataLoader, Dataset

from lf_autoworkers.elastic import elastic, worker

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")

BLOCKS, BLOCK_BYTES = 11, 16 * 1024**2  # more than glibc ever keeps by itself, 64 MiB
BATCH_BYTES = 2 * BLOCK_BYTES
PAGES = BLOCKS * BLOCK_BYTES // resource.getpagesize()


class Faults(Dataset[torch.Tensor]):
    """Each batch fills some large blocks, frees them, and says how many page faults that took."""

    def __init__(self, batch_bytes: int) -> None:
        self.batch_bytes = batch_bytes

    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int) -> torch.Tensor:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(BLOCK_BYTES // 4) for _ in range(BLOCKS)]
        del blocks
        return torch.full((self.batch_bytes // 8,), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


def last_faults(batch_bytes: int) -> int:
    loader = DataLoader(Faults(batch_bytes), batch_size=None, num_workers=1)
    with elastic(loader):
        return [int(faults[0]) for faults in loader][-1]


def test_a_batch_does_not_fault_in_again_what_the_one_before_it_used() -> None:
    assert last_faults(BATCH_BYTES) < PAGES / 10


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_the_users_malloc_settings_stay(name: str, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture) -> None:
    mallopt = mocker.patch("lf_autoworkers.elastic.worker.ctypes.CDLL").return_value.mallopt
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")  # says nothing of what is kept
    worker._keep_heap(BATCH_BYTES)
    assert mallopt.call_args.args == (-1, BATCH_BYTES)
    mallopt.reset_mock()
    monkeypatch.setenv(name, "131072")
    worker._keep_heap(BATCH_BYTES)
    assert not mallopt.called
