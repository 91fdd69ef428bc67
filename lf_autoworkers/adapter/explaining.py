"""``lf-autoworkers explain``: the decision a training start would make, without the start.

Covers reading the config as LLaMA-Factory does, guessing which of its commands the config is for, and the what-ifs of
the command line. Decides nothing itself: it calls the same `resolve` as the hook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lf_autoworkers.adapter.config import auto_fields, read_config
from lf_autoworkers.adapter.resolve import resolve
from lf_autoworkers.errors import SettingError
from lf_autoworkers.hardware import Machine
from lf_autoworkers.plan.decision import (
    LOADER_FIELD,
    PERSISTENT_FIELD,
    PREFETCH_FIELD,
    PREPROCESSING_FIELD,
    V1_LOADER_FIELD,
)
from lf_autoworkers.plan.explain import explain_json, explain_text
from lf_autoworkers.settings import PREFIX, read_settings

_WHAT_IF_FLAGS = {"CPUS": "--cpus", "MEMORY_LIMIT": "--memory", "SHM": "--shm", "LOCAL_WORLD_SIZE": "--ranks"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """One config explained, as a page and as JSON."""

    text: str
    as_json: dict[str, Any]


def explain(
    config: Path, overrides: Sequence[str], environ: Mapping[str, str], what_if: Mapping[str, str], machine: Path | None
) -> Explanation:
    """Return what ``auto`` would decide.

    Args:
        config: The YAML or JSON file.
        overrides: ``key=value`` as on LLaMA-Factory's command line.
        environ: The environment.
        what_if: Values that replace those of LF_AUTOWORKERS_<key>.
        machine: A folder that describes another machine; ``None`` for this one.

    Raises:
        AutoWorkersError: The config, an override, a variable or the folder is wrong; the message says how.
    """
    arguments = read_config(config, overrides)
    for suffix, value in what_if.items():
        errors = read_settings({PREFIX + suffix: value}).errors
        if errors or not value.strip():
            allowed = str(errors[0]).partition(": it ")[2] if errors else "takes a value."
            raise SettingError(f"{_WHAT_IF_FLAGS[suffix]} {value!r} is not allowed: it {allowed}")
    reading = read_settings({**environ, **{PREFIX + suffix: value for suffix, value in what_if.items()}})
    if reading.errors and not reading.settings.disable and auto_fields(arguments):
        raise reading.errors[0]
    resolution = resolve(
        arguments,
        _owned(arguments),
        reading.settings,
        Machine.live() if machine is None else Machine.load(machine),
        before_start=True,
    )
    warnings = [*(f"{error} It is ignored." for error in reading.errors), *reading.unknown]
    found = explain_json(resolution.plan, resolution.hardware, resolution.workload)
    found["warnings"] += warnings
    text = explain_text(resolution.plan, resolution.hardware, resolution.workload, warnings)
    return Explanation(text, found)


def _owned(arguments: Mapping[str, Any]) -> frozenset[str]:
    """Return the arguments of ours that the config's command knows: training, v1's training, or neither."""
    if V1_LOADER_FIELD in arguments:
        return frozenset({V1_LOADER_FIELD})
    trains = "export_dir" not in arguments and any(
        key in arguments for key in ("dataset", "do_train", "output_dir", "stage")
    )
    if LOADER_FIELD in arguments or trains:
        return frozenset({LOADER_FIELD, PREPROCESSING_FIELD, PREFETCH_FIELD, PERSISTENT_FIELD})
    return frozenset({PREPROCESSING_FIELD})
