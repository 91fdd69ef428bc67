"""PyTorch's own loader under the guard: real workers, changes with the next epoch."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, Dataset

from lf_autoworkers.adapter.epochs import EpochLoader


class Numbers(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(index)


def test_a_smaller_count_takes_effect_with_the_next_epoch() -> None:
    control = EpochLoader(2)
    loader = DataLoader(Numbers(), batch_size=2, num_workers=2, prefetch_factor=2, persistent_workers=True)
    control.apply(loader)
    for number, batch in enumerate(loader):
        assert batch.tolist() == [2 * number, 2 * number + 1]
        if number == 1:
            assert len(control.workers()) == 2
            control.resize(1)
            control.set_prefetch(1)
    assert len(control.workers()) == 2, "in the middle of an epoch nothing changes"
    control.apply(loader)
    for number, batch in enumerate(loader):
        assert batch.tolist() == [2 * number, 2 * number + 1]
        assert len(control.workers()) == 1
    assert (loader.num_workers, loader.prefetch_factor) == (1, 1)
    loader._iterator = None


def test_it_kills_nobody_and_keeps_one() -> None:
    control = EpochLoader(3)
    assert control.resize(0) == 1
    assert not control.kill(1)
    assert not control.retire(1)
