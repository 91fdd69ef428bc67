"""A DataLoader whose workers can join, leave or be killed at any step, and whose batches stay those of 0 workers.

    with elastic(loader, workers=4) as run:
        for batch in loader:
            ...
            run.resize(2)

Works with a plain ``torch.utils.data.DataLoader``; knows nothing of LLaMA-Factory, of memory policy or of plans.
`docs/elastic-loader.md` has the state diagram and the invariants. The vocabulary (`api.py`) is importable without
torch; the loader itself is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lf_autoworkers.elastic.api import (
    BatchCost,
    BatchUnsent,
    ElasticControl,
    ElasticOptions,
    LoaderEvent,
    LoaderStats,
    TargetChanged,
    WorkerHung,
    WorkerLost,
    WorkerPhase,
    WorkerRetired,
    WorkerSnapshot,
    WorkerStarted,
)

if TYPE_CHECKING:
    from lf_autoworkers.elastic.installation import Installation, elastic, install
    from lf_autoworkers.elastic.run import ElasticRun

__all__ = [
    "BatchCost",
    "BatchUnsent",
    "ElasticControl",
    "ElasticOptions",
    "ElasticRun",
    "Installation",
    "LoaderEvent",
    "LoaderStats",
    "TargetChanged",
    "WorkerHung",
    "WorkerLost",
    "WorkerPhase",
    "WorkerRetired",
    "WorkerSnapshot",
    "WorkerStarted",
    "elastic",
    "install",
]


def __getattr__(name: str) -> Any:
    if name in ("Installation", "elastic", "install"):
        from lf_autoworkers.elastic import installation as module

        return getattr(module, name)
    if name == "ElasticRun":
        from lf_autoworkers.elastic.run import ElasticRun

        return ElasticRun
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
