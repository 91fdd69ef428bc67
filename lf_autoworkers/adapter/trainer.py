"""The memory guard's place in a training run: made when ``auto`` was resolved, begun and ended with the Trainer.

Covers putting sensor, guard, journal and controller together for one run, and the Trainer callback that counts steps.
Does not decide anything (`steering` does) and does not make loaders elastic (`dataloader` does).
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lf_autoworkers._activate import when_imported
from lf_autoworkers.adapter.epochs import EpochLoader
from lf_autoworkers.adapter.learning import conclude
from lf_autoworkers.adapter.resolve import Resolution
from lf_autoworkers.elastic.api import ElasticControl
from lf_autoworkers.journal import JOURNAL_NAME, Journal
from lf_autoworkers.plan.decision import LOADER_FIELD, PREFETCH_FIELD
from lf_autoworkers.plan.memory import WORKER_BYTES
from lf_autoworkers.settings import PREFIX
from lf_autoworkers.steering.controller import Controller, Orders
from lf_autoworkers.steering.danger import Surroundings
from lf_autoworkers.steering.guard import Guard
from lf_autoworkers.steering.messages import Advice
from lf_autoworkers.steering.sensor import Sensor
from lf_autoworkers.steering.turns import Turn

_ADVICE = Advice(
    workers=f"{PREFIX}DATALOADER_NUM_WORKERS={{count}}",
    smaller_batches="per_device_train_batch_size, image_max_pixels or video_max_pixels",
)
_controller: Controller | None = None
_epochs: EpochLoader | None = None
_begin: Callable[[], None] | None = None
_finish: Callable[[], None] | None = None


def make_sensor(resolution: Resolution) -> Sensor:
    """Return the sensor of this process: the real limits and ``LF_AUTOWORKERS_MEMORY_LIMIT``."""
    settings, ranks = resolution.settings, resolution.hardware.ranks
    return Sensor(memory_limit_bytes=settings.memory_limit_bytes, ranks=ranks.local_world_size)


def arm(resolution: Resolution, named: Mapping[str, Any], sensor: Sensor, run: ElasticControl | None) -> None:
    """Guard the run that is about to begin, if its loader's count was ``auto`` and the guard is not off.

    Args:
        resolution: What ``auto`` became.
        named: The run's arguments.
        sensor: From `make_sensor`.
        run: The elastic loader's verbs; ``None`` where PyTorch's own loader stays.
    """
    global _controller, _epochs, _begin, _finish
    disarm()
    decision = resolution.plan.decision(LOADER_FIELD)
    if resolution.settings.guard == "off" or decision is None or not decision.value:
        return
    from lf_autoworkers.adapter.run import is_main_rank, log

    count = int(decision.value)
    control: ElasticControl
    if run is None:
        control = _epochs = EpochLoader(count)
    else:
        control = run
    settings, hardware, workload = resolution.settings, resolution.hardware, resolution.workload
    prefetch = resolution.plan.decision(PREFETCH_FIELD)
    guard = Guard(
        Surroundings(
            worker_bytes=WORKER_BYTES["fork"] + workload.decode_bytes,
            first_bytes=None if run is None or decision.has_room else WORKER_BYTES["fork"],
            reserve_bytes=settings.memory_reserve_bytes or 0,
            ranks=hardware.ranks.local_world_size,
            oom_group=bool(sensor.facts.oom_group),
        )
    )
    journal = Journal(_journal_path(named), log())
    _controller = Controller(
        control,
        Orders(
            wanted=count,
            prefetch=int((prefetch.value if prefetch else resolution.request.prefetch_factor) or 2),
            batch_bytes=workload.batch_bytes,
            observe=settings.guard == "observe",
            elastic=run is not None,
        ),
        sensor=sensor,
        guard=guard,
        journal=journal,
        logger=log(),
        advice=_ADVICE,
        turn=Turn(_turn_path() if hardware.ranks.local_world_size > 1 else None),
    )

    def finish() -> None:
        if is_main_rank() and settings.guard == "on":
            with contextlib.suppress(OSError, RuntimeError):  # the next run then decides anew
                conclude(resolution, named, ended_on=control.target, shed=guard.incidents.any)

    def begin() -> None:
        for made in resolution.plan.decisions if is_main_rank() else ():
            journal.write("decision", 0, field=made.field, value=made.value, binding=made.binding, because=made.because)

    _begin, _finish = begin, finish
    _controller.attach()
    atexit.register(_controller.close)
    when_imported("transformers.trainer", _add_callback)


def disarm() -> None:
    """End the guard of the run before, if there is one."""
    global _controller, _epochs, _begin, _finish
    if _controller is not None:
        _controller.close()
        atexit.unregister(_controller.close)
    _controller = _epochs = _begin = _finish = None


def _journal_path(named: Mapping[str, Any]) -> Path | None:
    """Return the journal of this run; on the first node alone, since appending over a network file system can tear."""
    output_dir = named.get("output_dir")
    first_node = os.environ.get("GROUP_RANK", os.environ.get("NODE_RANK", "0")) in ("", "0")
    return Path(str(output_dir)) / JOURNAL_NAME if output_dir and first_node else None


def _turn_path() -> Path:
    """Return the lock file that the ranks of this job on this node share."""
    names = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID")
    job = hashlib.sha256(":".join(os.environ.get(name, "") for name in names).encode()).hexdigest()[:16]
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    return Path(tempfile.gettempdir()) / f"lf-autoworkers-{user}" / f"{job}.turn"


def _add_callback(module: Any) -> None:
    class GuardMemory(module.TrainerCallback):  # type: ignore[misc]
        """Tells the guard of the current run where training is."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if _begin is not None:
                _begin()
            if _controller is not None:
                _controller.begin_training(state.global_step)

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if _epochs is not None and kwargs.get("train_dataloader") is not None:
                _epochs.apply(kwargs["train_dataloader"])

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if _controller is not None:
                _controller.finish_step(state.global_step)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if _controller is not None:
                _controller.finish()
            if _finish is not None:
                _finish()

    if not any(getattr(known, "__name__", "") == GuardMemory.__name__ for known in module.DEFAULT_CALLBACKS):
        module.DEFAULT_CALLBACKS.append(GuardMemory)
