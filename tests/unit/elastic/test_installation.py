"""Which loaders become elastic, which keep PyTorch's iterator and why, and that it can be undone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from lf_autoworkers.elastic import ElasticRun, elastic, install, installation
from lf_autoworkers.elastic.iterator import ElasticIter
from tests.unit.elastic.rows import Numbers, in_worker
from tests.unit.elastic.test_contract import flat

STOCK = DataLoader._get_iterator


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        yield from range(4)


class Derived(DataLoader[Any]):
    pass


@pytest.mark.parametrize(
    ("loader", "why"),
    [
        (DataLoader(Stream()), "IterableDataset"),
        (DataLoader(Numbers(4), num_workers=1, in_order=False), "in_order=False"),
        (Derived(Numbers(4)), "Derived"),
    ],
)
def test_what_cannot_be_elastic_keeps_pytorchs_iterator_and_says_why_once(
    loader: DataLoader[Any], why: str, warnings: list[str]
) -> None:
    with install(ElasticRun(1), lambda other: True):
        for _ in range(2):
            assert not isinstance(iter(loader), ElasticIter)
            assert sorted(flat(torch.as_tensor(batch) for batch in loader)) == [0, 1, 2, 3]
    assert len(warnings) == 1 and why in warnings[0]
    with pytest.raises(ValueError, match=why):
        elastic(loader)


def test_other_loaders_are_not_touched_and_the_class_is_given_back() -> None:
    mine, other = DataLoader(Numbers(4)), DataLoader(Numbers(4))
    handle = elastic(mine, 1)
    with elastic(DataLoader(Numbers(1)), 1):
        assert isinstance(iter(mine), ElasticIter)
        assert not isinstance(iter(other), ElasticIter)
    assert DataLoader._get_iterator is not STOCK
    handle.uninstall()
    handle.uninstall()
    assert DataLoader._get_iterator is STOCK
    assert not isinstance(iter(mine), ElasticIter)


def test_a_live_iterator_goes_on_after_uninstalling() -> None:
    loader = DataLoader(Numbers(20))
    with elastic(loader, 2):
        iterator = iter(loader)
        next(iterator)
    assert flat(iterator) == list(range(1, 20))


def test_somebody_elses_patch_on_top_stays() -> None:
    loader = DataLoader(Numbers(4))
    handle = elastic(loader, 0)
    ours = DataLoader._get_iterator
    calls: list[int] = []

    def theirs(self: DataLoader[Any]) -> Any:
        calls.append(1)
        return ours(self)

    DataLoader._get_iterator = theirs  # type: ignore[method-assign]
    try:
        handle.uninstall()
        assert DataLoader._get_iterator is theirs
        assert flat(loader) == [0, 1, 2, 3] and calls == [1]
        with elastic(loader, 0):
            assert isinstance(iter(loader), ElasticIter)
    finally:
        DataLoader._get_iterator = STOCK  # type: ignore[method-assign]
        installation._original = None


def test_a_loader_inside_a_worker_is_pytorchs() -> None:
    class Nested(Numbers):
        def __getitem__(self, row: int) -> torch.Tensor:
            inner = iter(DataLoader(Numbers(3)))
            assert in_worker() and not isinstance(inner, ElasticIter)
            return torch.tensor([len(list(inner))])

    loader = DataLoader(Nested(4))
    with install(ElasticRun(1), lambda other: True):
        assert flat(loader) == [3, 3, 3, 3]


def test_a_torch_that_is_not_as_we_know_it_keeps_its_iterator(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    assert installation.missing_internals() is None
    loader = DataLoader(Numbers(3))
    monkeypatch.setattr(installation, "_INTERNALS", ((DataLoader, ("_get_iterator", "_gone_in_the_next_release")),))
    with install(ElasticRun(1), lambda other: True):
        assert not isinstance(iter(loader), ElasticIter)
    assert "DataLoader._gone_in_the_next_release is not there" in warnings[0]
    with pytest.raises(ValueError, match="_gone_in_the_next_release"):
        elastic(loader)


def test_iterators_that_are_built_otherwise_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def __init__(self, loader: object, seed: int) -> None: ...

        _reset = _next_index = _next_data = __next__ = None

    monkeypatch.setattr(torch.utils.data.dataloader, "_BaseDataLoaderIter", Other)
    assert "builds iterators from" in str(installation.missing_internals())


def test_the_vocabulary_is_importable_without_torch() -> None:
    import subprocess
    import sys

    code = "import sys; sys.modules['torch'] = None; from lf_autoworkers.elastic import ElasticControl, WorkerLost"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
