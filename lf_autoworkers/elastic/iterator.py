"""The iterator that `DataLoader.__iter__` hands out: PyTorch's contract on top of a pool.

It derives from `_BaseDataLoaderIter` alone, which PyTorch keeps apart for iterators of others. Base seed and sampler
are drawn exactly as by PyTorch's iterator for 0 workers, also by persistent workers, in whose later epochs PyTorch
itself draws no base seed: the loader's generator therefore goes on as it would with `num_workers=0`.
Does NOT decide which loaders get it (`installation.py`).
"""

from __future__ import annotations

import multiprocessing
import weakref
from typing import Any

import torch
from torch.utils.data import DataLoader, _DatasetKind, _utils
from torch.utils.data.dataloader import _BaseDataLoaderIter

from lf_autoworkers.elastic.consumer import Consumer
from lf_autoworkers.elastic.pool import Pool
from lf_autoworkers.elastic.run import ElasticRun
from lf_autoworkers.elastic.seeding import kept_generators, seed_generators
from lf_autoworkers.elastic.worker import WorkerSpec

#: Batches read ahead per worker if nobody says otherwise: PyTorch's default.
PREFETCH_FACTOR = 2


class ElasticIter(_BaseDataLoaderIter):
    """One pass over a loader, or several if the loader keeps its workers.

    Args:
        loader: A map-style loader that `installation.unsupported` found nothing against.
        run: Whose worker count to follow.
        epoch: How often this loader was iterated before; part of the batches' seeds.
    """

    def __init__(self, loader: DataLoader[Any], run: ElasticRun, epoch: int) -> None:
        super().__init__(loader)
        self._epoch = epoch
        self._fetcher = _DatasetKind.create_fetcher(  # type: ignore[no-untyped-call]
            self._dataset_kind, self._dataset, self._auto_collation, self._collate_fn, self._drop_last
        )
        spec = WorkerSpec(
            dataset=self._dataset,
            dataset_kind=self._dataset_kind,
            auto_collation=self._auto_collation,
            collate_fn=self._collate_fn,
            drop_last=self._drop_last,
            init_fn=loader.worker_init_fn,
            base_seed=int(self._base_seed),
            worker_id=0,
            num_workers=0,
            parent_pid=None,
        )
        # Forked unless the user chose a context: what trainers put into collators often does not pickle.
        context = loader.multiprocessing_context or multiprocessing.get_context("fork")
        factor = loader.prefetch_factor or PREFETCH_FACTOR
        pin = _pinning(self._pin_memory_device) if self._pin_memory else None
        self._pool = Pool(spec, context, run, factor, pin, self._rank)
        # The pool must not know this object, or it would never be collected while the pool's thread lives.
        self._consumer = Consumer(self._pool, _Pull(weakref.ref(self)), _Load(weakref.ref(self)), self._timeout)
        self._done = False
        weakref.finalize(self, self._pool.close, wait=False).atexit = False
        self._consumer.begin(int(self._base_seed), self._epoch)

    def _reset(self, loader: DataLoader[Any], first_iter: bool = False) -> None:
        super()._reset(loader, first_iter)
        base_seed = int(torch.empty((), dtype=torch.int64).random_(generator=loader.generator).item())
        self._base_seed = base_seed
        self._epoch += 1
        self._done = False
        self._consumer.begin(base_seed, self._epoch)

    def _next_data(self) -> Any:
        if self._done:
            raise StopIteration
        try:
            return self._consumer.next()
        except StopIteration:
            self._done = True
            if not self._persistent_workers:
                self._pool.close(wait=True)
            raise

    def _load_in_process(self, index: Any, seed: int) -> Any:
        with kept_generators():
            seed_generators(seed)
            value = self._fetcher.fetch(index)
        if not self._pin_memory:
            return value
        return _utils.pin_memory.pin_memory(value, self._pin_memory_device)  # type: ignore[no-untyped-call]


class _Pull:
    """The sampler's next index batch, for an iterator that is alive."""

    def __init__(self, owner: weakref.ref[ElasticIter]) -> None:
        self._owner = owner

    def __call__(self) -> Any:
        owner = self._owner()
        assert owner is not None
        return owner._next_index()  # type: ignore[no-untyped-call]


class _Load:
    """A batch made on the consumer's thread, for an iterator that is alive."""

    def __init__(self, owner: weakref.ref[ElasticIter]) -> None:
        self._owner = owner

    def __call__(self, index: Any, seed: int) -> Any:
        owner = self._owner()
        assert owner is not None
        return owner._load_in_process(index, seed)


def _pinning(device: str | None) -> Any:
    """Return what pins a batch, and what readies the pinning thread, as PyTorch's own thread does both."""
    device_index = torch.accelerator.current_device_index()

    def ready() -> None:
        torch.set_num_threads(1)  # of this thread alone; else one copy takes every core
        torch.accelerator.set_device_index(device_index)

    def pin(value: Any) -> Any:
        return _utils.pin_memory.pin_memory(value, device)  # type: ignore[no-untyped-call]

    return pin, ready
