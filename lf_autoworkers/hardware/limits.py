"""Counts the kernel bounds (open files, processes) and the size of /dev/shm.

Covers reading them and raising the soft limit on open files. Does not decide how many workers fit: the plan does.
"""

from __future__ import annotations

import platform

from .cgroup import cgroup_levels
from .facts import LimitFacts, ShmFacts
from .machine import Machine
from .probes import Rlimit

NOFILE_CEILING = 1 << 20
"""Open files nobody needs to go beyond: fs.nr_open's default (proc_sys_fs(5)). Programs that walk all possible
descriptors, as ``close_fds`` of old Python does, take seconds where the limit is 2^30."""

_DARWIN_CEILING = 10240
"""OPEN_MAX of macOS: setrlimit(2) refuses a larger soft limit although the hard one says unlimited."""


def read_limits(machine: Machine) -> LimitFacts:
    """Return the open files and the processes this process may still have."""
    nofile = machine.probes.nofile
    pids, pids_source = _pids(machine)
    if nofile is None:
        return LimitFacts(None, "no RLIMIT_NOFILE", pids, pids_source)
    source = f"RLIMIT_NOFILE soft {_shown(nofile[0])}, hard {_shown(nofile[1])}"
    return LimitFacts(_reachable_nofile(nofile, machine.probes.system), source, pids, pids_source)


def read_shm(machine: Machine) -> ShmFacts:
    """Return the size of /dev/shm; unknown where it has none or the mount has no size of its own."""
    size = machine.probes.shm
    if size is None:
        return ShmFacts(None, None, "no /dev/shm")
    # A tmpfs mounted with size=0 is unbounded and reports no blocks at all.
    return ShmFacts(*size, "/dev/shm") if size[0] > 0 else ShmFacts(None, None, "/dev/shm (mounted without a size)")


def raise_nofile_limit() -> int | None:
    """Raise this process's soft limit on open files towards its hard one; children inherit it.

    Returns:
        The soft limit now in force; ``None`` where there is none, or none at all (Windows, unlimited).
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    unlimited = resource.RLIM_INFINITY
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits: Rlimit = (None if soft == unlimited else soft, None if hard == unlimited else hard)
    goal = _reachable_nofile(limits, platform.system())
    if goal is None or goal == soft:
        return goal
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (goal, hard))
    except (OSError, ValueError):  # a sandbox may forbid it; what was there still holds
        return limits[0]
    return goal


def _reachable_nofile(limits: Rlimit, system: str) -> int | None:
    soft, hard = limits
    if soft is None:
        return None
    ceiling = _DARWIN_CEILING if system == "Darwin" else NOFILE_CEILING
    return max(soft, ceiling if hard is None else min(hard, ceiling))


def _pids(machine: Machine) -> tuple[int | None, str]:
    found: list[tuple[int, str]] = []
    for level in cgroup_levels(machine, "pids"):
        path = f"{level.path}/pids.max"
        if (machine.read_text(path) or "max").strip() == "max":
            continue
        most, current = machine.read_number(path), machine.read_number(f"{level.path}/pids.current")
        if most is not None and current is not None:
            found.append((max(0, most - current), path))
    probes = machine.probes
    # The kernel does not hold root to this limit (setrlimit(2)).
    if probes.user_id and probes.nproc is not None and probes.nproc[0] is not None and probes.user_threads is not None:
        found.append((max(0, probes.nproc[0] - probes.user_threads), f"RLIMIT_NPROC {probes.nproc[0]}"))
    return min(found, default=(None, "nothing bounds them"), key=lambda pair: pair[0] or 0)


def _shown(limit: int | None) -> str:
    return "unlimited" if limit is None else str(limit)
