"""What a resolved ``auto`` sets in motion beside its number, and what the log is told.

Covers the log lines and the switches of one training run: what forked children inherit, the dataset fingerprint,
shards of a streamed dataset, the count stored with checkpoints, the elastic loader and its guard. Each is armed for a
run that said ``auto`` and disarmed by the next one that does not. How each works is told where it lives.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from lf_autoworkers import _activate
from lf_autoworkers.adapter import mapping, streaming, trainer, trainer_hooks
from lf_autoworkers.adapter.config import is_auto, whole_number
from lf_autoworkers.adapter.dataloader import install_elastic, uninstall_elastic
from lf_autoworkers.adapter.resolve import Resolution
from lf_autoworkers.elastic.api import ElasticControl
from lf_autoworkers.errors import DetectionError
from lf_autoworkers.hardware import raise_nofile_limit
from lf_autoworkers.plan.decision import LOADER_FIELD, PREPROCESSING_FIELD, V1_LOADER_FIELD
from lf_autoworkers.plan.explain import explain_text, log_line
from lf_autoworkers.settings import PREFIX, EnvironmentReading
from lf_autoworkers.steering.sensor import Sensor

_said: set[str] = set()
_armed = False
_strict = False
_begun = False


def log() -> logging.Logger:
    """Return the logger whose lines reach the user: LLaMA-Factory shows INFO for its own names only.

    v1 has a logger of its own, which is set up when something asks for it.
    """
    logger = logging.getLogger("llamafactory.autoworkers")
    v1 = sys.modules.get("llamafactory.v1.utils.logging")
    if logger.hasHandlers() or v1 is None:
        return logger
    named: logging.Logger = v1.get_logger("llamafactory.v1.autoworkers")
    return named


def is_main_rank() -> bool:
    """Return whether this process speaks for its node.

    Launchers other than torchrun set no LOCAL_RANK, and LLaMA-Factory's Ray workers all set 0: without torchrun's
    LOCAL_WORLD_SIZE the launcher's own rank on the node counts, or the rank among all.
    """
    if "LOCAL_WORLD_SIZE" not in os.environ and os.environ.get("WORLD_SIZE", "1").strip() not in ("", "1"):
        for name in ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID", "RANK"):
            if name in os.environ:
                return os.environ[name].strip() == "0"
    return os.environ.get("LOCAL_RANK", "0").strip() in ("", "0", "-1")


def is_armed() -> bool:
    """Return whether a run with ``auto`` is prepared or under way."""
    return _armed


def has_begun() -> bool:
    """Return whether that run's Trainer has been made: the next parse belongs to another run."""
    return _begun


def _begin_training() -> None:
    global _begun
    _begun = True


def begin(resolution: Resolution, named: Mapping[str, Any]) -> None:
    """Arm what must hold while a run with ``auto`` lasts; a part that fails is said once and left out.

    Raises:
        DetectionError: A part failed and the settings are strict.
    """
    global _armed, _strict
    if not resolution.request.trains:
        return
    end()
    _armed, _strict = True, resolution.settings.strict
    plan, request = resolution.plan, resolution.request
    _attempt("raising the limit of open files", raise_nofile_limit)
    cpus = resolution.hardware.cpu.unshrunk_cpus
    _attempt("preparing forked children", lambda: mapping.prepare_children(cpus))
    if request.preprocessing:
        _attempt("keeping the dataset fingerprint", mapping.keep_fingerprint)
    loader = plan.decision(LOADER_FIELD)
    if loader is None or not isinstance(loader.value, int):
        _attempt("watching the trainer", lambda: trainer_hooks.arm(None, _begin_training))
        return
    count = loader.value
    if resolution.workload.streaming:
        readers = 1 if request.dispatches_batches else resolution.hardware.ranks.world_size
        _attempt("sharding the streamed dataset", lambda: streaming.shard_for(count, readers))
    stored = count if resolution.workload.streaming else None
    _attempt("watching the trainer", lambda: trainer_hooks.arm(stored, _begin_training))
    _attempt("starting the elastic loader and its guard", lambda: _steer(resolution, count, named))


def _steer(resolution: Resolution, count: int, named: Mapping[str, Any]) -> None:
    """Make the Trainer's loaders elastic, unless told not to or a stream is read, and guard the run's memory."""
    sensor = trainer.make_sensor(resolution)
    wanted = resolution.request.elastic and not resolution.workload.streaming and count > 0
    trainer.arm(resolution, named, sensor, _make_elastic(count, sensor) if wanted else None)


def _make_elastic(count: int, sensor: Sensor) -> ElasticControl | None:
    """Make the Trainer's loaders elastic and return the verbs; ``None`` where this PyTorch is not as we know it."""
    limit = sensor.facts.limit
    try:
        handle = install_elastic(
            count,
            count,
            oom_kills=sensor.oom_kills,
            memory_limit_bytes=lambda: limit[0] if limit else None,
            logger=log(),
        )
    except Exception as error:
        if _strict:
            raise
        uninstall_elastic()
        say_failure("making the loaders elastic", error, "PyTorch's own loader keeps the number")
        return None
    return handle.run if handle.works else None


def end() -> None:
    """Disarm everything: the next run in this process did not ask for it."""
    global _armed, _begun
    _armed = _begun = False
    mapping.disarm()
    streaming.disarm()
    trainer_hooks.disarm()
    trainer.disarm()
    uninstall_elastic()


def say(resolution: Resolution, reading: EnvironmentReading, named: Mapping[str, Any]) -> None:
    """Log one line a value, and what the user should know beside it; the main rank of a node alone."""
    if not is_main_rank():
        return
    for decision in resolution.plan.decisions:
        log().info(log_line(decision))
    if resolution.hardware.problems:
        problems = "; ".join(problem.rstrip(".") for problem in resolution.hardware.problems)
        log().warning("auto: the machine could not be read completely, the numbers are cautious: %s.", problems)
    for note in resolution.workload.notes:
        log().info("auto: %s", note)
    for warning in resolution.plan.warnings:
        log().warning("auto: %s", warning)
    if resolution.settings.log == "debug":
        log().info("auto explained\n%s", explain_text(resolution.plan, resolution.hardware, resolution.workload))
    say_ignored(reading, named)


def say_ignored(reading: EnvironmentReading, named: Mapping[str, Any]) -> None:
    """Warn of variables that have no effect: unknown ones, bad ones without an ``auto``, numbers beside a number."""
    if not is_main_rank():
        return
    pairs = (
        ("DATALOADER_NUM_WORKERS", LOADER_FIELD, reading.settings.dataloader_num_workers),
        ("PREPROCESSING_NUM_WORKERS", PREPROCESSING_FIELD, reading.settings.preprocessing_num_workers),
    )
    for suffix, field, forced in pairs:
        field = V1_LOADER_FIELD if field == LOADER_FIELD and V1_LOADER_FIELD in named else field
        if forced is not None and not is_auto(named.get(field)):
            there = whole_number(named.get(field))
            why = "the config does not say auto there" if there is None else f"the config says {field}: {there}"
            _warn_once(f"{PREFIX}{suffix}={forced} is ignored: {why}.")
    for error in reading.errors:
        _warn_once(f"{error} It is ignored.")
    for sentence in reading.unknown:
        _warn_once(sentence)


def _say_late_failure(module: str, error: BaseException) -> None:
    _warn_once(f"auto: {module} is not as we know it ({type(error).__name__}: {error}); what needs it is left out.")


_activate.tell = _say_late_failure


def say_failure(doing: str, error: Exception, instead: str) -> None:
    """Warn once that something of ours failed and what holds in its place."""
    _warn_once(f"auto: {doing} failed ({type(error).__name__}: {error}); going on without: {instead}.")


def _warn_once(sentence: str) -> None:
    if sentence in _said:
        return
    _said.add(sentence)
    if log().hasHandlers():
        log().warning(sentence)
    else:
        sys.stderr.write(f"lf-autoworkers: {sentence}\n")


def _attempt(doing: str, act: Callable[[], object]) -> None:
    try:
        act()
    except Exception as error:
        if _strict:
            raise DetectionError(f"{doing.capitalize()} failed ({type(error).__name__}: {error}).") from error
        say_failure(doing, error, "this part is left out")
