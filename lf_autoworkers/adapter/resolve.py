"""Config + environment + machine -> `Resolution`: the straight line through every room, without side effects.

Used alike by the parser's hook and by ``lf-autoworkers explain``; imports neither torch nor LLaMA-Factory. What a
training run does with the result is `run`'s business.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from lf_autoworkers.adapter.config import auto_fields, default_count
from lf_autoworkers.adapter.job import job_of
from lf_autoworkers.adapter.request import in_v0_words, make_request
from lf_autoworkers.errors import DetectionError
from lf_autoworkers.hardware import Machine, detect_hardware, expected_ranks
from lf_autoworkers.hardware.facts import Hardware
from lf_autoworkers.history import default_folder, recall
from lf_autoworkers.plan import Decision, Plan, Request, make_plan
from lf_autoworkers.plan.decision import LOADER_FIELD, PREPROCESSING_FIELD
from lf_autoworkers.settings import PREFIX, Settings
from lf_autoworkers.workload import Modality, Workload, describe_workload, find_template_source


@dataclass(frozen=True, slots=True)
class Resolution:
    """One config resolved: the plan, and everything it was made from."""

    plan: Plan
    request: Request
    hardware: Hardware
    workload: Workload
    settings: Settings


def resolve(
    arguments: Mapping[str, Any],
    owned: Collection[str],
    settings: Settings,
    machine: Machine,
    *,
    before_start: bool = False,
    what_if: Callable[[Hardware], Hardware] | None = None,
) -> Resolution:
    """Return the plan for ``arguments``.

    Args:
        arguments: The raw config; not changed.
        owned: The argument names the command's parser knows.
        settings: The environment's word.
        machine: Where the facts are read.
        before_start: No launcher has run yet: count ranks as LLaMA-Factory's launcher will.
        what_if: Applied to the facts after the environment's overrides.

    Raises:
        ConfigError: One of our keys holds a word that is neither ``auto`` nor a number.
        DetectionError: A fact could not be read and the settings are strict.
    """
    autos = auto_fields(arguments)
    hardware = detect_hardware(machine)
    if before_start:
        hardware = dataclasses.replace(hardware, ranks=expected_ranks(machine, hardware.gpus))
    hardware = _overridden(hardware, settings)
    if what_if is not None:
        hardware = what_if(hardware)
    if hardware.problems and settings.strict and autos:
        raise DetectionError(f"{hardware.problems[0]} ({PREFIX}STRICT=1 forbids a guess.)")
    workload = describe_workload(in_v0_words(arguments), template_source=find_template_source())
    if settings.modality is not None:
        workload = dataclasses.replace(
            workload, modality=Modality(settings.modality), modality_source=f"{PREFIX}MODALITY={settings.modality}"
        )
    request = make_request(arguments, autos, owned, settings)
    if settings.disable:
        return Resolution(_disabled_plan(request, workload), request, hardware, workload, settings)
    if request.loader_field == LOADER_FIELD and not workload.streaming and not settings.history_off:
        folder = settings.history or default_folder(os.environ)
        learned = recall(folder, job_of(arguments, hardware))
        request = dataclasses.replace(request, learned_loader=learned)
    return Resolution(make_plan(hardware, workload, request), request, hardware, workload, settings)


def _disabled_plan(request: Request, workload: Workload) -> Plan:
    """Return LLaMA-Factory's own defaults, as ``LF_AUTOWORKERS_DISABLE=1`` gives them."""
    values: dict[str, int | None] = {PREPROCESSING_FIELD: None} if request.preprocessing else {}
    if request.loader_field is not None:
        values[request.loader_field] = default_count(request.loader_field, streaming=workload.streaming)
    because = f"{PREFIX}DISABLE=1"
    return Plan(
        tuple(
            Decision(
                name, value, "auto", "per node" if name == PREPROCESSING_FIELD else "per rank", "environment", because
            )
            for name, value in values.items()
        )
    )


def _overridden(hardware: Hardware, settings: Settings) -> Hardware:
    """Return ``hardware`` with what the environment says in place of what was found."""
    if settings.cpus is not None:
        hardware = hardware.with_cpus(settings.cpus, f"{PREFIX}CPUS")
    if settings.memory_limit_bytes is not None:
        hardware = hardware.with_memory_limit(settings.memory_limit_bytes, f"{PREFIX}MEMORY_LIMIT")
    if settings.shm_bytes is not None:
        hardware = hardware.with_shm(settings.shm_bytes, f"{PREFIX}SHM")
    if settings.local_world_size is not None:
        hardware = hardware.with_ranks(settings.local_world_size, f"{PREFIX}LOCAL_WORLD_SIZE")
    return hardware
