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

from lf_autoworkers.adapter.config import auto_fields, default_values
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
    autos = {} if settings.disable else auto_fields(arguments)
    hardware = detect_hardware(machine)
    if before_start:
        hardware = dataclasses.replace(hardware, ranks=expected_ranks(machine, hardware.gpus))
    hardware = _overridden(hardware, settings)
    if what_if is not None:
        hardware = what_if(hardware)
    if hardware.problems and settings.strict and autos:
        raise DetectionError(f"{hardware.problems[0]} ({PREFIX}STRICT=1 forbids a guess.)")
    modality = None if settings.modality is None else Modality(settings.modality)
    workload = describe_workload(
        in_v0_words(arguments), template_source=find_template_source(), modality=modality, said_by=f"{PREFIX}MODALITY"
    )
    request = make_request(arguments, autos, owned, settings)
    if settings.disable:
        return Resolution(_disabled_plan(arguments, owned), request, hardware, workload, settings)
    if request.loader_field == LOADER_FIELD and not workload.streaming and not settings.history_off:
        request = dataclasses.replace(request, learned_loader=_learned(settings, arguments, hardware))
    return Resolution(make_plan(hardware, workload, request), request, hardware, workload, settings)


def _learned(settings: Settings, arguments: Mapping[str, Any], hardware: Hardware) -> int | None:
    try:
        return recall(settings.history or default_folder(os.environ), job_of(arguments, hardware))
    except RuntimeError:  # no home folder: nothing was kept either
        return None


def _disabled_plan(arguments: Mapping[str, Any], owned: Collection[str]) -> Plan:
    """Return LLaMA-Factory's own defaults, as ``LF_AUTOWORKERS_DISABLE=1`` gives them."""
    because = f"{PREFIX}DISABLE=1"
    return Plan(
        tuple(
            Decision(
                name,
                value,
                arguments.get(name),
                "per node" if name == PREPROCESSING_FIELD else "per rank",
                "environment",
                because,
            )
            for name, value in default_values(arguments, owned).items()
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
