"""Shards of a streamed local file: every worker of every rank gets one.

LLaMA-Factory makes as many shards as one rank has workers, and ranks share them out first: with 16 workers on 8 ranks
14 of each 16 idle. Covers the call that makes the shards, for runs whose worker count was ``auto``.
"""

from __future__ import annotations

import functools
from typing import Any

from lf_autoworkers._activate import when_imported

_workers: int | None = None
_readers = 1


def shard_for(workers: int, readers: int) -> None:
    """Make a call that asks for ``workers`` shards make ``workers`` x ``readers`` of them, within the rows there are.

    Args:
        workers: The worker count ``auto`` resolved to, 1 or more.
        readers: Ranks that read the dataset, 1 or more.
    """
    global _workers, _readers
    _workers, _readers = workers, readers
    when_imported("datasets.arrow_dataset", _install)


def shards(rows: int, workers: int, readers: int) -> int:
    """Return the shards for a dataset of ``rows`` rows: a multiple of ``readers`` where rows allow, 1 or more."""
    wanted = min(rows, workers * readers)
    return max(1, wanted // readers * readers)


def _install(module: Any) -> None:
    original = module.Dataset.to_iterable_dataset
    if hasattr(original, "__lf_autoworkers__"):
        return

    @functools.wraps(original)
    def to_iterable_dataset(self: Any, num_shards: int | None = 1, *rest: Any, **named: Any) -> Any:
        if _workers is not None and num_shards == _workers:
            num_shards = shards(len(self), _workers, _readers)
        return original(self, num_shards, *rest, **named)

    to_iterable_dataset.__lf_autoworkers__ = True  # type: ignore[attr-defined]
    module.Dataset.to_iterable_dataset = to_iterable_dataset


def disarm() -> None:
    """Leave the call alone again."""
    global _workers
    _workers = None
