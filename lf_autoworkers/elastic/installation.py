"""Who gets the elastic iterator: `DataLoader._get_iterator`, replaced once on the class, with a predicate.

On the class, because trainers rebuild loaders from their attributes (a subclass or an instance attribute is lost). What
cannot be elastic keeps PyTorch's iterator, and one warning says why.
"""

from __future__ import annotations

import atexit
import inspect
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, MapDataPipe, _DatasetKind, _utils, get_worker_info
from torch.utils.data import dataloader as torch_dataloader

from lf_autoworkers.elastic.api import ElasticOptions
from lf_autoworkers.elastic.iterator import ElasticIter
from lf_autoworkers.elastic.pool import close_all
from lf_autoworkers.elastic.run import ElasticRun

#: What is used of PyTorch beyond its documented interface; where one of them is missing, its own iterator stays.
_INTERNALS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (DataLoader, ("_get_iterator", "_auto_collation", "_index_sampler")),
    (torch_dataloader._BaseDataLoaderIter, ("_reset", "_next_index", "_next_data", "__next__")),
    (_DatasetKind, ("Map", "create_fetcher")),
    (_utils.worker, ("WorkerInfo", "_worker_info", "_generate_state")),
    (_utils.pin_memory, ("pin_memory",)),
    (_utils.signal_handling, ("_set_worker_signal_handlers",)),
    (torch, ("accelerator", "default_generator")),
    (torch.multiprocessing, ("_set_thread_name",)),
    (os, ("memfd_create", "eventfd")),
)

_lock = threading.Lock()
_installations: list[Installation] = []
_original: Callable[[DataLoader[Any]], Any] | None = None


class Installation:
    """What makes some loaders elastic; `uninstall` ends that for iterators to come. Also a context manager.

    Attributes:
        run: The worker count and the verbs.
    """

    def __init__(self, run: ElasticRun, matches: Callable[[DataLoader[Any]], bool], logger: logging.Logger) -> None:
        self.run = run
        self._matches = matches
        self._logger = logger
        self._pid = os.getpid()
        self._epochs: weakref.WeakKeyDictionary[DataLoader[Any], int] = weakref.WeakKeyDictionary()
        self._told: set[str] = set()

    def iterator_for(self, loader: DataLoader[Any]) -> ElasticIter | None:
        """Return an elastic iterator, or None if this loader is not ours or cannot be elastic."""
        if os.getpid() != self._pid or get_worker_info() is not None or not self._matches(loader):
            return None
        reason = unsupported(loader)
        if reason is not None:
            if reason not in self._told:
                self._told.add(reason)
                self._logger.warning(f"PyTorch's own DataLoader iterator is kept, with a fixed worker count: {reason}")
            return None
        epoch = self._epochs.get(loader, 0)
        self._epochs[loader] = epoch + 1
        return ElasticIter(loader, self.run, epoch)

    def uninstall(self) -> None:
        """Give loaders to come back to PyTorch; live iterators go on. Twice is harmless."""
        global _original
        with _lock:
            if self in _installations:
                _installations.remove(self)
            if not _installations and _original is not None and DataLoader._get_iterator is _get_iterator:
                DataLoader._get_iterator = _original  # type: ignore[method-assign,assignment]
                _original = None

    def __enter__(self) -> ElasticRun:
        return self.run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.uninstall()


def install(run: ElasticRun, matches: Callable[[DataLoader[Any]], bool]) -> Installation:
    """Make every loader elastic that ``matches`` says yes to, from its next iterator on, in this process only.

    Args:
        run: Whose worker count they follow.
        matches: Called at each new iterator; must be quick and must not raise.
    """
    global _original
    installation = Installation(run, matches, run.options.logger)
    missing = missing_internals()
    if missing is not None:
        run.options.logger.warning(f"PyTorch's own DataLoader iterator is kept everywhere: {missing}")
        return installation
    with _lock:
        if _original is None:
            _original = DataLoader._get_iterator
            DataLoader._get_iterator = _get_iterator  # type: ignore[method-assign]
            atexit.register(close_all)
        _installations.insert(0, installation)
    return installation


def elastic(loader: DataLoader[Any], workers: int | None = None, options: ElasticOptions | None = None) -> Installation:
    """Make one loader elastic.

        with elastic(loader, workers=4) as run:
            for batch in loader:
                ...
                run.resize(2)

    Args:
        loader: A plain map-style ``DataLoader``.
        workers: Workers wanted at first; None takes the loader's ``num_workers``.
        options: See `ElasticOptions`.

    Raises:
        ValueError: this loader cannot be elastic; the message says why.
    """
    reason = missing_internals() or unsupported(loader)
    if reason is not None:
        raise ValueError(f"this loader cannot be elastic: {reason}")
    run = ElasticRun(loader.num_workers if workers is None else workers, options)
    wanted = weakref.ref(loader)
    return install(run, lambda other: other is wanted())


def unsupported(loader: DataLoader[Any]) -> str | None:
    """Say why a loader must keep PyTorch's iterator; None if it need not."""
    if not sys.platform.startswith("linux"):
        return f"this is {sys.platform}, and workers are only known to survive being killed on Linux"
    if type(loader) is not DataLoader:
        return f"{type(loader).__qualname__} is not torch.utils.data.DataLoader itself and may iterate in its own way"
    if loader._dataset_kind != _DatasetKind.Map:
        return "an IterableDataset is split by worker number, so its order depends on a count that stays the same"
    if isinstance(loader.dataset, MapDataPipe):
        return "a MapDataPipe is sharded by PyTorch's own workers"
    if not getattr(loader, "in_order", True):
        return "in_order=False asks for whatever comes first, not for an order that can be kept"
    return None


def missing_internals() -> str | None:
    """Say which internal of PyTorch (or of the system) is not as we know it; None if all are."""
    for owner, names in _INTERNALS:
        for name in names:
            if not hasattr(owner, name):
                return f"{getattr(owner, '__name__', owner)}.{name} is not there (torch {torch.__version__})"
    parameters = list(inspect.signature(torch_dataloader._BaseDataLoaderIter.__init__).parameters)
    if parameters != ["self", "loader"]:
        return f"torch {torch.__version__} builds iterators from {parameters[1:]}, not from a loader alone"
    return None


def _get_iterator(self: DataLoader[Any]) -> Any:
    for installation in list(_installations):
        iterator = installation.iterator_for(self)
        if iterator is not None:
            return iterator
    original = _original
    assert original is not None
    return original(self)
