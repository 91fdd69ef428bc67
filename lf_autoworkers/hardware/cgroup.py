"""The cgroups a process is in, as directories: its own first, then every ancestor that can be seen.

Covers cgroup v1, v2 and both at once (hybrid), at any mount point, seen through a private cgroup namespace (Docker,
Kubernetes) or without one. Does not read a limit: `cpu`, `memory` and `limits` do.

The kernel's side of it: cgroups(7), cgroup_namespaces(7) and, for mountinfo, proc_pid_mountinfo(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .machine import Machine

MOUNTINFO = "/proc/self/mountinfo"
MEMBERSHIP = "/proc/self/cgroup"


@dataclass(frozen=True, slots=True)
class CgroupDirectory:
    """One level of one hierarchy: its version (1 or 2) and the absolute path of its directory."""

    version: int
    path: str


@dataclass(frozen=True, slots=True)
class _Mount:
    version: int
    root: str
    point: str
    options: tuple[str, ...]


def cgroup_levels(machine: Machine, controller: str) -> tuple[CgroupDirectory, ...]:
    """Return the directories in which ``controller`` may bound this process, from its own cgroup up to the root.

    On a hybrid host the v1 hierarchy comes first and the v2 one after it: whichever does not run the controller simply
    has none of its files.
    """
    mounts = tuple(_cgroup_mounts(machine))
    levels: list[CgroupDirectory] = []
    for version, path in _memberships(machine, controller):
        serving = [m for m in mounts if m.version == version and (version == 2 or controller in m.options)]
        if serving:
            levels.extend(CgroupDirectory(version, directory) for directory in _chain(machine, path, serving))
    return tuple(levels)


def _memberships(machine: Machine, controller: str) -> Iterator[tuple[int, str]]:
    """Yield (version, cgroup path) of this process in the hierarchies that may hold ``controller``, v1 first."""
    v2: list[tuple[int, str]] = []
    for line in (machine.read_text(MEMBERSHIP) or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not number.isdigit() or not colon or not path.startswith("/"):
            machine.misread(MEMBERSHIP, line)
        elif number == "0" and not controllers:
            v2.append((2, path.removesuffix(" (deleted)")))
        elif controller in controllers.split(","):
            yield 1, path.removesuffix(" (deleted)")
    yield from v2


def _cgroup_mounts(machine: Machine) -> Iterator[_Mount]:
    for line in (machine.read_text(MOUNTINFO) or "").splitlines():
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not dash or len(fields) < 6 or len(kind) < 3:
            machine.misread(MOUNTINFO, line)
        elif kind[0] in ("cgroup", "cgroup2"):
            version = 2 if kind[0] == "cgroup2" else 1
            yield _Mount(version, _unescape(fields[3]), _unescape(fields[4]), tuple(kind[2].split(",")))


def _chain(machine: Machine, path: str, mounts: list[_Mount]) -> Iterator[str]:
    """Yield the directory of cgroup ``path`` and those above it, through the mount that shows the most of them."""
    # A later mount hides an earlier one at the same place, so the last of equals is taken.
    candidates = [(_below(path, mount.root), mount) for mount in reversed(mounts)]
    below, mount = min(candidates, key=lambda pair: (pair[0] is None, len(_parts(pair[1].root))))
    point = mount.point.rstrip("/")
    if below is None:
        # The top of the mount is all there is to go by: most likely it bounds this process too.
        machine.problem(f"{MEMBERSHIP} names {path}, which {point} does not show; its limits may not be found.")
        below = ()
    for depth in range(len(below), -1, -1):
        yield "/".join((point, *below[:depth]))


def _below(path: str, mount_root: str) -> tuple[str, ...] | None:
    """Return ``path`` relative to the cgroup that is mounted; ``None`` where it is not below it.

    Both are given relative to the reader's cgroup namespace, so either may start with ``/..``.
    """
    own, root = _parts(path), _parts(mount_root)
    if own[: len(root)] != root or ".." in own[len(root) :]:
        return None
    return own[len(root) :]


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)


def _unescape(text: str) -> str:
    # Blank, tab, newline and backslash are written as three octal digits.
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
