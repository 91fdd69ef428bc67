"""Which rows meet in a batch: the largest batch a run of this length is expected to draw.

Covers chance only; what a batch costs is told by `cost`. The largest rows of a dataset hardly ever meet in one batch,
so their sum would be far above what any run sees; the mean is far below. A few whole runs are therefore drawn, with a
fixed seed, and the largest batch of each is kept.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

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
    rows: Sequence[RowCost],
    weights: Sequence[float] | None,
    batch_size: int,
    batches: int | None,
    run: RunArguments,
    geometry: Geometry,
) -> BatchCost:
    """Return the cost of the largest batch expected among ``batches``; its CPU seconds are those of a mean batch.

    Args:
        rows: Costs of the rows looked at, at least one.
        weights: How many rows of the data each of them stands for; ``None`` where they are all the data.
        batch_size: Rows of a batch.
        batches: Batches that the run draws; ``None`` for many.
        run: Arguments of the run.
        geometry: Of the model's processor.
    """

    def size(batch: Sequence[RowCost]) -> float:
        return sum(row.floats for row in batch) * run.float_bytes + len(batch) * 24 * max(row.tokens for row in batch)

    if weights is None:
        batch_size = min(batch_size, len(rows))
    fitting = max(1, _DRAWN_ROWS // batch_size)
    count = min(fitting, batches or fitting)
    runs = max(1, min(_RUNS, fitting // count))
    drawer = random.Random(_SEED)
    maxima = [max(_drawn(drawer, rows, weights, batch_size, count), key=size) for _ in range(runs)]
    largest = sorted(maxima, key=size)[runs * 3 // 4]
    # A giant too rare to be drawn above still meets ordinary rows somewhere in a long run.
    shares = weights or [1.0] * len(rows)
    ordered = sorted(zip(rows, shares, strict=True), key=lambda pair: size((pair[0],)))
    below = list(accumulate(share for _, share in ordered))
    ordinary = ordered[bisect_left(below, below[-1] / 2)][0]
    with_giant = (ordered[-1][0], *[ordinary] * (batch_size - 1))
    costs = [batch_cost(batch, run, geometry) for batch in (largest, with_giant)]
    # Whichever row is decoded at the highest resolution may be in the largest batch.
    deepest = RowCost(decoded_pixels=max(row.decoded_pixels for row in rows))
    deep = [batch_cost((*batch[1:], batch[0] + deepest), run, geometry) for batch in (largest, with_giant)]
    mean_s = sum(row.cpu_s * share for row, share in zip(rows, shares, strict=True)) / sum(shares)
    return BatchCost(
        max(cost.batch_bytes for cost in costs),
        max(cost.decode_bytes for cost in deep),
        batch_cost([RowCost(cpu_s=mean_s)] * batch_size, run, geometry).cpu_s,
    )


def _drawn(
    drawer: random.Random,
    rows: Sequence[RowCost],
    weights: Sequence[float] | None,
    batch_size: int,
    count: int,
) -> Iterator[Sequence[RowCost]]:
    """Yield ``count`` batches: epoch after epoch of all the data, or by chance from a sample of it."""
    order: list[RowCost] = []
    for _ in range(count):
        if weights is not None:
            yield drawer.choices(rows, weights, k=batch_size)
            continue
        if len(order) < batch_size:
            order = drawer.sample(rows, len(rows))
        yield order[:batch_size]
        del order[:batch_size]
