"""The Trainer's part in a run with ``auto``: the worker count that travels with a streamed run's checkpoints.

Covers what must wait until transformers' Trainer exists.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lf_autoworkers._activate import when_imported
from lf_autoworkers.adapter.checkpoint import save_count
from lf_autoworkers.adapter.resolve import Resolution
from lf_autoworkers.plan.decision import LOADER_FIELD

_count: int | None = None


def arm(resolution: Resolution, named: Mapping[str, Any]) -> None:
    """Prepare the Trainer of this run, once it is imported."""
    global _count
    loader = resolution.plan.decision(LOADER_FIELD)
    if resolution.workload.streaming and loader is not None and isinstance(loader.value, int):
        _count = loader.value
        when_imported("transformers.trainer", _install)


def _install(module: Any) -> None:
    original = module.Trainer.__init__
    if hasattr(original, "__lf_autoworkers__"):
        return

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if _count is not None:
            self.add_callback(_saver(module, _count))

    init.__lf_autoworkers__ = True  # type: ignore[attr-defined]
    module.Trainer.__init__ = init


def _saver(module: Any, count: int) -> Any:
    class SaveWorkerCount(module.TrainerCallback):  # type: ignore[misc]
        """Writes the count beside each checkpoint, which the order of a streamed dataset depends on."""

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.is_world_process_zero and checkpoint.is_dir():
                save_count(checkpoint, count)

    return SaveWorkerCount()


def disarm() -> None:
    """Leave the next Trainer alone."""
    global _count
    _count = None
