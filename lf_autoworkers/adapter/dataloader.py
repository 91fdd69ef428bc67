"""Which DataLoaders of a LLaMA-Factory run become elastic: those its Trainer builds with the resolved count.

The Trainer's three public methods are watched for the loaders they return. accelerate and a resume rebuild a loader
from its attributes, so a loader is known again by its ``collate_fn``, which survives that, and by its worker count. No
other DataLoader of the process is touched, whatever its count; so a resolved count of 0 is taken over too (PyTorch's
own with 0 workers could never grow). A v1 run has StatefulDataLoaders, which keep their own iterator.
Does NOT decide when to install (`run.py`) or what to do with the count afterwards (steering).
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lf_autoworkers._activate import when_imported
from lf_autoworkers.elastic.api import LOGGER_NAME, ElasticOptions

if TYPE_CHECKING:
    from lf_autoworkers.elastic import ElasticRun

_BUILDERS = ("get_train_dataloader", "get_eval_dataloader", "get_test_dataloader")
_MARK = "__lf_autoworkers_elastic__"

_current: Handle | None = None


class Handle:
    """An installed elastic loader for one run.

    Attributes:
        run: The worker count and everything that can be done with it; live from now on, before any loader exists.
        works: Whether this PyTorch has what elastic loaders need; where it has not, its own are kept, one line said so.
    """

    def __init__(self, run: ElasticRun, resolved: int) -> None:
        from lf_autoworkers.elastic.installation import install, missing_internals

        self.run = run
        self.works = missing_internals() is None
        self._resolved = resolved
        self._collators: dict[int, weakref.ref[Any] | Callable[[], Any]] = {}
        self._installation = install(run, self._is_ours)

    def recognise(self, loader: Any) -> None:
        """Remember a loader that the Trainer has built, whatever it is wrapped in."""
        collate_fn = getattr(loader, "collate_fn", None)
        if collate_fn is None:
            return
        try:
            self._collators[id(collate_fn)] = weakref.ref(collate_fn)
        except TypeError:  # a built-in or a class with slots; kept alive, so that its id stays its own
            self._collators[id(collate_fn)] = lambda: collate_fn

    def uninstall(self) -> None:
        """Leave loaders to come alone; twice is harmless."""
        global _current
        self._installation.uninstall()
        if _current is self:
            _current = None

    def _is_ours(self, loader: Any) -> bool:
        known = self._collators.get(id(loader.collate_fn))
        return loader.num_workers == self._resolved and known is not None and known() is loader.collate_fn


def install_elastic(
    target_workers: int,
    ceiling: int,
    *,
    oom_kills: Callable[[], int | None] | None = None,
    memory_limit_bytes: Callable[[], int | None] | None = None,
    logger: logging.Logger | None = None,
) -> Handle:
    """Make the loaders of the run that is about to start elastic. Call it in each rank, once ``auto`` was resolved.

    Args:
        target_workers: The resolved count, which the Trainer's loaders are built with; 0 and up, per rank.
        ceiling: Most workers the run may ever be resized to, per rank.
        oom_kills: Reads the cgroup's ``oom_kill`` counter; None if there is none.
        memory_limit_bytes: Reads the memory limit to name where a batch cannot fit; None if it is unknown.
        logger: Where warnings go.
    """
    global _current
    from lf_autoworkers.elastic import ElasticRun

    if _current is not None:
        _current.uninstall()
    options = ElasticOptions(
        ceiling=max(ceiling, target_workers),
        oom_kills=oom_kills,
        memory_limit_bytes=memory_limit_bytes,
        logger=logger or logging.getLogger(LOGGER_NAME),
    )
    _current = Handle(ElasticRun(target_workers, options), target_workers)
    when_imported("transformers.trainer", _watch_trainer)
    return _current


def uninstall_elastic() -> None:
    """Leave the next run's loaders alone."""
    if _current is not None:
        _current.uninstall()


def _watch_trainer(module: Any) -> None:
    for name in _BUILDERS:
        original = getattr(module.Trainer, name)
        if not hasattr(original, _MARK):
            setattr(module.Trainer, name, _watched(original))


def _watched(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def build(self: Any, *args: Any, **kwargs: Any) -> Any:
        loader = original(self, *args, **kwargs)
        if _current is not None:
            _current.recognise(loader)
        return loader

    setattr(build, _MARK, True)
    return build
