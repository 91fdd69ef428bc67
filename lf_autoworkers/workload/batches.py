"""Which rows meet in a batch: the largest batch a run of this length is expected to draw.

Covers chance only; what a batch costs is told by `cost`. The largest rows of a dataset hardly ever meet in one batch,
so their sum would be far above what any run sees; the mean is far below. A few whole runs are therefore drawn, with a
fixed seed, and the largest batch of each is kept.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from .arguments import RunArguments
from .cost import BatchCost, RowCost, batch_cost
from .processor import Geometry

_RUNS = 8
_DRAWN_ROWS = 40_000
_SEED = 20


def batches_of_run(run: RunArguments, rows: int | None, batch_size: int) -> int | None:
    """Return how many batches one rank's loader yields in the whole run; ``None`` where unknown."""
    if run.max_steps is not None:
        return run.max_steps * run.accumulation
    return None if rows is None else math.ceil(run.epochs * math.ceil(rows / batch_size))


def largest_batch(
    rows: Sequence[RowCost], batch_size: int, batches: int | None, run: RunArguments, geometry: Geometry
) -> BatchCost:
    """Return the cost of the largest batch expected among ``batches``; its CPU seconds are those of a mean batch.

    Args:
        rows: Costs of the rows looked at; each stands for the same number of rows.
        batch_size: Rows of a batch.
        batches: Batches that the run draws; ``None`` for many.
        run: Arguments of the run.
        geometry: Of the model's processor.
    """
    if not rows:
        return BatchCost(0, 0, 0.0)
    fitting = max(1, _DRAWN_ROWS // batch_size)
    count = min(fitting, batches or fitting)
    runs = max(1, min(_RUNS, fitting // count))
    drawer = random.Random(_SEED)
    largest = sorted(
        (max(_drawn(drawer, rows, batch_size, count), key=lambda batch: _weight(batch, run)) for _ in range(runs)),
        key=lambda batch: _weight(batch, run),
    )[runs * 3 // 4]
    # A giant too rare to be drawn above still meets ordinary rows somewhere in a long run.
    giant = max(rows, key=lambda row: _weight((row,), run))
    middle = sorted(rows, key=lambda row: _weight((row,), run))[len(rows) // 2]
    with_giant = (giant, *[middle] * (batch_size - 1))
    costs = [batch_cost(batch, run, geometry) for batch in (largest, with_giant)]
    mean_s = sum(row.cpu_s for row in rows) / len(rows)
    deepest = max(row.decoded_pixels for row in rows)
    decoding = max(
        batch_cost((*batch[1:], _deeper(batch[0], deepest)), run, geometry).decode_bytes
        for batch in (largest, with_giant)
    )
    return BatchCost(
        max(cost.batch_bytes for cost in costs),
        decoding,
        batch_cost([RowCost(cpu_s=mean_s)] * batch_size, run, geometry).cpu_s,
    )


def _deeper(row: RowCost, decoded_pixels: float) -> RowCost:
    return row + RowCost(decoded_pixels=decoded_pixels)


def _weight(batch: Sequence[RowCost], run: RunArguments) -> float:
    floats = sum(row.floats for row in batch)
    return floats * run.float_bytes + len(batch) * 24 * max(row.tokens for row in batch)


def _drawn(drawer: random.Random, rows: Sequence[RowCost], batch_size: int, count: int) -> Iterator[Sequence[RowCost]]:
    """Yield ``count`` batches: epoch after epoch, each a new order of ``rows``."""
    order: list[RowCost] = []
    for _ in range(count):
        while len(order) < batch_size and len(order) < len(rows):
            order += drawer.sample(rows, len(rows))
        yield order[:batch_size]
        del order[:batch_size]
