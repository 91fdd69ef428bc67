"""A plan in words: one log line a value, a page for the terminal, JSON for machines.

Covers wording only; no number is computed here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from lf_autoworkers.hardware.facts import Hardware
from lf_autoworkers.plan.decision import LOADER_FIELD, PREPROCESSING_FIELD, V1_LOADER_FIELD, Decision, Plan
from lf_autoworkers.plan.memory import ROUNDING_BYTES
from lf_autoworkers.units import format_count, format_size, round_down
from lf_autoworkers.workload.facts import Workload

COUNTS = (LOADER_FIELD, V1_LOADER_FIELD, PREPROCESSING_FIELD)
OVERRIDES = {
    LOADER_FIELD: "LF_AUTOWORKERS_DATALOADER_NUM_WORKERS",
    V1_LOADER_FIELD: "LF_AUTOWORKERS_DATALOADER_NUM_WORKERS",
    PREPROCESSING_FIELD: "LF_AUTOWORKERS_PREPROCESSING_NUM_WORKERS",
}


def _shown(value: int | bool | None) -> str:
    return "none" if value is None else str(value).lower()


def log_line(decision: Decision) -> str:
    """Return the one line that tells a decision: field, value, who decided, why, and every cap's value."""
    requested = "auto" if decision.field in COUNTS else ("unset" if decision.requested is None else decision.requested)
    scope = f" {decision.scope}"
    if decision.binding == "environment":
        return f"{decision.field}: {requested} -> {_shown(decision.value)}{scope} <- environment: {decision.because}"
    line = f"{decision.field}: {requested} -> {_shown(decision.value)}{scope} <- {decision.binding}: {decision.because}"
    if decision.caps:
        line += " | caps " + " ".join(f"{cap.name.replace(' ', '_')}={cap.value}" for cap in decision.caps)
    return line


def yaml_lines(plan: Plan) -> dict[str, int | bool | None]:
    """Return the fixed values that would do the same as this plan, by argument."""
    return {decision.field: decision.value for decision in plan.decisions}


def _rounded(pair: tuple[int, str] | None) -> tuple[int, str] | None:
    """Return a reading as the plan used it: what is free moves by the moment, the number must not."""
    return None if pair is None else (round_down(pair[0], ROUNDING_BYTES), pair[1])


def _facts(hardware: Hardware, workload: Workload) -> list[tuple[str, str, str]]:
    """Return the facts as (name, value, source) for a person."""
    cpu, memory, shm, limits = hardware.cpu, hardware.memory, hardware.shm, hardware.limits
    rows = [("usable CPUs", format_count(round(cpu.usable_cpus, 2)), f"{cpu.tightest.name}: {cpu.tightest.source}")]
    if cpu.host_cpus is not None:
        rows.append(("host CPUs", str(cpu.host_cpus), cpu.host_source))
    if cpu.affinity_shrunk_by is not None:
        rows.append(("affinity", "narrowed during import torch, not used", cpu.affinity_shrunk_by))
    for label, pair in (("memory limit", memory.limit), ("memory headroom", _rounded(memory.headroom))):
        rows.append((label, format_size(pair[0]), pair[1]) if pair else (label, "unknown", "no reading"))
    if memory.oom_group:
        rows.append(("kernel OOM kill", "takes the whole group at once", "memory.oom.group"))
    free = "none" if shm.free_bytes is None else format_size(shm.free_bytes)
    rows.append(("shared memory free", free, shm.source))
    if limits.nofile is not None:
        rows.append(("open files", str(limits.nofile), limits.nofile_source))
    if limits.pids is not None:
        rows.append(("processes left", str(limits.pids), limits.pids_source))
    names = ", ".join(sorted({gpu.name for gpu in hardware.gpus.gpus}))
    rows.append(("GPUs", f"{len(hardware.gpus.gpus)}" + (f" ({names})" if names else ""), hardware.gpus.source))
    rows.append(("ranks on this node", str(hardware.ranks.local_world_size), hardware.ranks.source))
    rows.append(("workers start by", hardware.start_method, hardware.system))
    rows.append(("modality", str(workload.modality), workload.modality_source))
    count = "unknown" if workload.train_rows is None else str(workload.train_rows)
    rows.append(
        (
            "training rows",
            count if workload.train_rows_exact or workload.train_rows is None else f"about {count}",
            workload.rows_source,
        )
    )
    rows.append(("largest batch", format_size(workload.batch_bytes), workload.batch_source))
    rows.append(("one batch costs", f"about {workload.batch_cpu_s:.2g} CPU s", "cost model, measured anew by the run"))
    return rows


def explain_text(plan: Plan, hardware: Hardware, workload: Workload, warnings: Sequence[str] = ()) -> str:
    """Return the page ``lf-autoworkers explain`` prints; ``warnings`` are those the plan does not know of."""
    lines: list[str] = ["facts"]
    facts = _facts(hardware, workload)
    width = max(len(name) for name, _, _ in facts)
    lines += [f"  {name:<{width}}  {value}  <- {source}" for name, value, source in facts]
    for decision in plan.decisions:
        asked = "auto" if decision.field in COUNTS else "unset"
        lines += ["", f"{decision.field}: {_shown(decision.value)}   {decision.scope}   (requested: {asked})"]
        lines.append(f"  because  {decision.binding}: {decision.because}")
        for cap in sorted(decision.caps, key=lambda cap: cap.value):
            mark = "*" if cap.name == decision.binding else " "
            lines.append(f"  {mark} {cap.name:<12} {cap.value:>5}  <- {cap.because}  [{cap.source}]")
        if decision.field in OVERRIDES:
            lines.append(f"  to change  {OVERRIDES[decision.field]}=<n>, or a number in the config")
    notes = [*hardware.problems, *workload.notes, *plan.warnings, *warnings]
    if notes:
        lines += ["", "notes", *(f"  - {note}" for note in notes)]
    fixed = yaml_lines(plan)
    if fixed:
        lines += ["", "the same as writing"]
        lines += [f"  {name}: {'null' if value is None else str(value).lower()}" for name, value in fixed.items()]
    else:
        lines += ["", "nothing is auto in this config: lf-autoworkers changes nothing."]
    return "\n".join(lines) + "\n"


def _fact(value: Any, source: str) -> dict[str, Any]:
    return {"value": value, "source": source}


def explain_json(plan: Plan, hardware: Hardware, workload: Workload) -> dict[str, Any]:
    """Return what ``lf-autoworkers explain --json`` prints: facts, decisions, warnings, yaml."""
    cpu, memory, shm, limits = hardware.cpu, hardware.memory, hardware.shm, hardware.limits
    limit, headroom = memory.limit, _rounded(memory.headroom)
    no_reading = "no reading"
    facts: dict[str, Any] = {
        "system": _fact(hardware.system, "platform"),
        "start_method": _fact(hardware.start_method, "multiprocessing"),
        "usable_cpus": _fact(cpu.usable_cpus, f"{cpu.tightest.name}: {cpu.tightest.source}"),
        "host_cpus": _fact(cpu.host_cpus, cpu.host_source),
        "cpu_constraints": [dataclasses.asdict(constraint) for constraint in cpu.constraints],
        "affinity_shrunk_by": _fact(cpu.affinity_shrunk_by, "affinity of the parent process"),
        "memory_limit_bytes": _fact(limit[0], limit[1]) if limit else _fact(None, no_reading),
        "memory_headroom_bytes": _fact(headroom[0], headroom[1]) if headroom else _fact(None, no_reading),
        "memory_levels": [dataclasses.asdict(level) for level in memory.levels],
        "host_memory_bytes": _fact(memory.total_bytes, memory.host_source),
        "host_available_bytes": _fact(memory.available_bytes, memory.host_source),
        "oom_group": _fact(memory.oom_group, "memory.oom.group"),
        "shm_total_bytes": _fact(shm.total_bytes, shm.source),
        "shm_free_bytes": _fact(shm.free_bytes, shm.source),
        "open_files": _fact(limits.nofile, limits.nofile_source),
        "processes_left": _fact(limits.pids, limits.pids_source),
        "gpus": {"value": [dataclasses.asdict(gpu) for gpu in hardware.gpus.gpus], "source": hardware.gpus.source},
        "local_world_size": _fact(hardware.ranks.local_world_size, hardware.ranks.source),
        "world_size": _fact(hardware.ranks.world_size, hardware.ranks.source),
        "stage": _fact(workload.stage, "config"),
        "streaming": _fact(workload.streaming, "config"),
        "modality": _fact(str(workload.modality), workload.modality_source),
        "train_rows": _fact(workload.train_rows, workload.rows_source),
        "train_rows_exact": _fact(workload.train_rows_exact, workload.rows_source),
        "batch_bytes": _fact(workload.batch_bytes, workload.batch_source),
        "decode_bytes": _fact(workload.decode_bytes, workload.batch_source),
        "batch_cpu_s": _fact(workload.batch_cpu_s, "cost model"),
    }
    decisions = [
        {
            "field": decision.field,
            "value": decision.value,
            "requested": decision.requested,
            "scope": decision.scope,
            "binding": decision.binding,
            "because": decision.because,
            "caps": [dataclasses.asdict(cap) for cap in decision.caps],
        }
        for decision in plan.decisions
    ]
    warnings = [*hardware.problems, *workload.notes, *plan.warnings]
    return {"facts": facts, "decisions": decisions, "warnings": warnings, "yaml": yaml_lines(plan)}
