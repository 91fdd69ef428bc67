"""Memory limits and what is in use against them, at every level that can kill this process.

Covers the host (/proc/meminfo) and each cgroup from this process's own to the visible root, v1 and v2. Does not judge
how much is safe: the plan and the guard do. Swap counts as nothing.

The kernel's side of it: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

from .cgroup import CgroupDirectory, cgroup_levels
from .facts import MemoryFacts, MemoryLevel
from .machine import Machine

_MEMINFO = "/proc/meminfo"
# v1 writes "no limit" as the largest page-aligned number below 2^63, which differs with the page size.
_NO_LIMIT = 1 << 60
# What of the file cache the kernel can drop at once: all of it but what must be written first.
_V2_CACHE = ("inactive_file", "active_file", "file_dirty", "file_writeback")
_V1_CACHE = ("total_inactive_file", "total_active_file", "total_dirty", "total_writeback")


def read_memory(machine: Machine) -> MemoryFacts:
    """Return the host's memory and every cgroup level above this process."""
    directories = cgroup_levels(machine, "memory")
    found = [level for directory in directories if (level := memory_level(machine, directory)) is not None]
    hidden = _hidden_parent(machine, directories, found)
    total_bytes, available_bytes, source = _host(machine)
    return MemoryFacts(
        total_bytes=total_bytes,
        available_bytes=available_bytes,
        host_source=source,
        levels=tuple(found) if hidden is None else (*found, hidden),
        own_bytes=machine.probes.own_bytes,
        oom_group=_oom_group(machine, directories),
    )


def memory_level(machine: Machine, directory: CgroupDirectory) -> MemoryLevel | None:
    """Return the limit and the use of one cgroup; ``None`` where the memory controller does not work there."""
    if directory.version == 1:
        path = f"{directory.path}/memory.limit_in_bytes"
        usage = f"{directory.path}/memory.usage_in_bytes"
        limit_bytes = _limit(machine, path)
    else:
        path, high = f"{directory.path}/memory.max", f"{directory.path}/memory.high"
        usage = f"{directory.path}/memory.current"
        limit_bytes, high_bytes = _limit(machine, path), _limit(machine, high)
        if high_bytes is not None and (limit_bytes is None or high_bytes < limit_bytes):
            limit_bytes, path = high_bytes, high
    used_bytes = machine.read_number(usage)
    if used_bytes is None and limit_bytes is None:
        return None
    if used_bytes is not None:
        used_bytes = max(0, used_bytes - _reclaimable_bytes(machine, directory))
    return MemoryLevel(limit_bytes, used_bytes, path)


def _limit(machine: Machine, path: str) -> int | None:
    if (machine.read_text(path) or "").strip() == "max":
        return None
    limit_bytes = machine.read_number(path)
    return limit_bytes if limit_bytes is not None and limit_bytes < _NO_LIMIT else None


def _reclaimable_bytes(machine: Machine, directory: CgroupDirectory) -> int:
    keys = _V2_CACHE if directory.version == 2 else _V1_CACHE
    stat = _stat(machine, f"{directory.path}/memory.stat")
    inactive, active, dirty, writeback = (stat.get(key, 0) for key in keys)
    return max(0, inactive + active - dirty - writeback)


def _stat(machine: Machine, path: str) -> dict[str, int]:
    values: dict[str, int] = {}
    for line in (machine.read_text(path) or "").splitlines():
        key, _, value = line.partition(" ")
        try:
            values[key] = int(value)
        except ValueError:
            machine.misread(path, line)
            return {}
    return values


def _hidden_parent(
    machine: Machine, directories: tuple[CgroupDirectory, ...], levels: list[MemoryLevel]
) -> MemoryLevel | None:
    """Return the limit of a v1 parent that is not mounted here (a container sees its own directory only).

    Its use cannot be read; that of the highest level seen is a part of it, so the headroom is at most this.
    """
    seen = [directory for directory in directories if directory.version == 1]
    if not seen:
        return None
    path = f"{seen[-1].path}/memory.stat"
    limit_bytes = _stat(machine, path).get("hierarchical_memory_limit", _NO_LIMIT)
    lowest = min((level.limit_bytes for level in levels if level.limit_bytes is not None), default=_NO_LIMIT)
    if limit_bytes >= min(lowest, _NO_LIMIT):
        return None
    used_bytes = levels[-1].used_bytes if levels else None
    return MemoryLevel(limit_bytes, used_bytes, f"hierarchical_memory_limit in {path}")


def _oom_group(machine: Machine, directories: tuple[CgroupDirectory, ...]) -> bool | None:
    """Whether any level asks the kernel to kill all of it at once."""
    values = [
        value
        for directory in directories
        if (value := machine.read_number(f"{directory.path}/memory.oom.group")) is not None
    ]
    return any(value == 1 for value in values) if values else None


def _host(machine: Machine) -> tuple[int | None, int | None, str]:
    text = machine.read_text(_MEMINFO)
    if text is None:
        memory = machine.probes.memory
        return (*memory, "psutil.virtual_memory()") if memory is not None else (None, None, "unknown")
    sizes: dict[str, int] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key in ("MemTotal", "MemAvailable"):
            try:
                sizes[key] = int(value.split()[0]) * 1024
            except (IndexError, ValueError):
                machine.misread(_MEMINFO, line)
    if "MemTotal" not in sizes:
        machine.problem(f"{_MEMINFO} holds no MemTotal.")
    return sizes.get("MemTotal"), sizes.get("MemAvailable"), _MEMINFO
