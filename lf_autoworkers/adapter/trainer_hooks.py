"""The worker count that travels with a streamed run's checkpoints, written whenever the Trainer saves one.

Covers the Trainer's side; `checkpoint` knows the file. The guard's callback is `trainer`'s.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from lf_autoworkers._activate import when_imported
from lf_autoworkers.adapter.checkpoint import save_count

_count: int | None = None


def arm(count: int) -> None:
    """Have the Trainer of this run store ``count`` with each checkpoint."""
    global _count
    _count = count
    when_imported("transformers.trainer", _install)


def _install(module: Any) -> None:
    original = module.Trainer.__init__
    if hasattr(original, "__lf_autoworkers__"):
        return

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if _count is not None:
            try:
                self.add_callback(_saver(module, _count))
            except Exception as error:
                from lf_autoworkers.adapter.run import say_failure

                say_failure("storing the count with checkpoints", error, "a resume decides anew")

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
