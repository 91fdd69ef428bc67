"""The CPUs this process may use, and everything that narrows them.

Covers affinity, cpusets, cgroup quotas (v1, v2, whole ancestor chain), Slurm, and the affinity that OpenMP shrinks
during ``import torch``. Does not divide among ranks or keep a core back: the plan does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .cgroup import cgroup_levels
from .cpulist import format_cpulist, parse_cpulist
from .facts import CpuConstraint, CpuFacts
from .machine import Machine
from .slurm import ranks_come_from_srun, slurm_cpus, slurm_tasks

_ONLINE = "/sys/devices/system/cpu/online"
# Variables that make OpenMP bind the main thread to one place while torch is imported, and the values that do not.
_BINDING_VARIABLES = ("OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
_NOT_BINDING = {"", "false", "none", "disabled", "norespect,none"}
_MOST_ANCESTORS = 16


@dataclass(frozen=True, slots=True)
class _ShrunkAffinity:
    cpus: frozenset[int]
    source: str
    variable: str


def read_cpu(machine: Machine) -> CpuFacts:
    """Return the host's CPUs and what narrows them; only what allows fewer than the host has is listed."""
    online = _read_cpulist(machine, _ONLINE)
    host_cpus, host_source = (len(online), _ONLINE) if online else (machine.probes.cpu_count, "os.cpu_count()")
    cpuset = _cpuset(machine)
    shrunk = _shrunk_affinity(machine, online or frozenset(), cpuset)
    own = machine.probes.affinity or frozenset()
    if shrunk is None:
        affinity = _for_all_tasks(machine, "affinity", own, f"sched_getaffinity: CPUs {format_cpulist(own)}")
    else:
        affinity = CpuConstraint("affinity", float(len(shrunk.cpus)), shrunk.source)
    found = [_for_all_tasks(machine, "cpuset", *cpuset), affinity, _quota(machine), _slurm(machine)]
    return CpuFacts(
        host_cpus,
        host_source,
        constraints=tuple(c for c in found if c is not None and (host_cpus is None or c.cpus < host_cpus)),
        affinity_shrunk_by=None if shrunk is None else shrunk.variable,
        unshrunk_cpus=() if shrunk is None else tuple(sorted(shrunk.cpus)),
    )


def _read_cpulist(machine: Machine, path: str) -> frozenset[int] | None:
    text = machine.read_text(path)
    if text is None:
        return None
    try:
        return parse_cpulist(text)
    except ValueError:
        machine.misread(path, text)
        return None


def _cpuset(machine: Machine) -> tuple[frozenset[int], str]:
    """The nearest cpuset; each is a part of those above it, so the nearest that is filled in holds for all."""
    for level in cgroup_levels(machine, "cpuset"):
        effective = "cpuset.cpus.effective" if level.version == 2 else "cpuset.effective_cpus"
        for name in (effective, "cpuset.cpus"):
            path = f"{level.path}/{name}"
            cpus = _read_cpulist(machine, path)
            if cpus:
                return cpus, path
    return frozenset(), "no cpuset"


def _quota(machine: Machine) -> CpuConstraint | None:
    """The smallest quota of the chain, as a fraction of CPUs."""
    quotas = [
        quota for level in cgroup_levels(machine, "cpu") if (quota := _level_quota(machine, level.path)) is not None
    ]
    return min(quotas, default=None, key=lambda constraint: constraint.cpus)


def _level_quota(machine: Machine, directory: str) -> CpuConstraint | None:
    path = f"{directory}/cpu.max"
    text = machine.read_text(path)
    if text is not None:
        values = text.split()
        if values and values[0] == "max":
            return None
        try:
            quota, period = (int(value) for value in values)
        except ValueError:
            machine.misread(path, text)
            return None
    else:
        path = f"{directory}/cpu.cfs_quota_us"
        quota_us, period_us = machine.read_number(path), machine.read_number(f"{directory}/cpu.cfs_period_us")
        if quota_us is None or period_us is None or quota_us == -1:
            return None
        quota, period = quota_us, period_us
    if quota <= 0 or period <= 0:
        machine.misread(path, f"{quota} {period}")
        return None
    return CpuConstraint("cgroup quota", quota / period, path)


def _slurm(machine: Machine) -> CpuConstraint | None:
    found = slurm_cpus(machine)
    return None if found is None else CpuConstraint("slurm", float(found[0]), found[1])


def _shrunk_affinity(
    machine: Machine, online: frozenset[int], cpuset: tuple[frozenset[int], str]
) -> _ShrunkAffinity | None:
    """Return the CPUs this process had before OpenMP bound it to one place; ``None`` where that did not happen.

    The nearest ancestor with more CPUs tells. Where there is none to see (the launcher is a container's first process,
    and as narrow), the cpuset and the online CPUs bound what it can have had.
    """
    own = machine.probes.affinity
    variable = _binding_variable(machine)
    if not own or variable is None or not _may_be_one_place(machine, own):
        return None
    # An ancestor's list may name CPUs that are offline, or outside the cgroup of a container.
    possible = online & cpuset[0] if online and cpuset[0] else online or cpuset[0]
    for allowed, source in (*_ancestor_affinities(machine), cpuset, (online, _ONLINE)):
        before = allowed & possible if possible else allowed
        if before > own:
            return _ShrunkAffinity(before, f"{source}: CPUs {format_cpulist(before)}", variable)
    return None


def _binding_variable(machine: Machine) -> str | None:
    for name in _BINDING_VARIABLES:
        value = machine.environment(name)
        if value is not None and value.strip().lower() not in _NOT_BINDING:
            return f"{name}={value}"
    return None


def _may_be_one_place(machine: Machine, own: frozenset[int]) -> bool:
    """Tell whether ``own`` may be the one place OpenMP binds to: a CPU, a core, or what OMP_PLACES names.

    Anything wider was chosen by a person (``taskset -c 0-7``) and stays, whatever OpenMP's variables say. One CPU
    chosen by a person beside such a variable cannot be told apart, and counts as shrunk.
    """
    if len(own) == 1 or machine.environment("OMP_PLACES") is not None:
        return True
    first = min(own)
    siblings = _read_cpulist(machine, f"/sys/devices/system/cpu/cpu{first}/topology/thread_siblings_list")
    return siblings is not None and own <= siblings


def _ancestor_affinities(machine: Machine) -> Iterator[tuple[frozenset[int], str]]:
    """Yield the allowed CPUs of the parent, its parent and so on.

    The launcher (`llamafactory-cli`, `torchrun`) imports torch too and hands a shrunk affinity down to its children.
    """
    path = "/proc/self/status"
    for _ in range(_MOST_ANCESTORS):
        parent = _status_field(machine, path, "PPid")
        if parent is None or not parent.isdecimal() or parent == "0":
            return
        path = f"/proc/{parent}/status"
        allowed = _status_field(machine, path, "Cpus_allowed_list")
        if allowed is None:
            return
        try:
            yield parse_cpulist(allowed), f"Cpus_allowed_list in {path}"
        except ValueError:
            machine.misread(path, allowed)


def _status_field(machine: Machine, path: str, field: str) -> str | None:
    for line in (machine.read_text(path) or "").splitlines():
        key, _, value = line.partition(":")
        if key == field:
            return value.strip()
    return None


def _for_all_tasks(machine: Machine, name: str, own: frozenset[int], source: str) -> CpuConstraint | None:
    """Return the node's constraint; where srun gave each rank CPUs of its own, this task's times the tasks here.

    The plan divides a node's CPUs among its ranks; one task's share must not be divided again.
    """
    if not own:
        return None
    cpus = float(len(own))
    tasks = slurm_tasks(machine)
    per_task = machine.environment("SLURM_CPUS_PER_TASK") or ""
    own_share = per_task.isdecimal() and cpus <= int(per_task)
    if own_share and tasks is not None and tasks[0] > 1 and ranks_come_from_srun(machine):
        return CpuConstraint(name, cpus * tasks[0], f"{source}, in each of {tasks[0]} tasks ({tasks[1]})")
    return CpuConstraint(name, cpus, source)
