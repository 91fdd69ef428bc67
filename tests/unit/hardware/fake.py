"""A machine made on the spot from a few files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lf_autoworkers.hardware import Machine
from lf_autoworkers.hardware.probes import Probes

CGROUP2_MOUNT = "32 21 0:27 / /sys/fs/cgroup rw,nosuid,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = "".join(
    f"{40 + place} 39 0:{31 + place} / /sys/fs/cgroup/{name} rw shared:{16 + place} - cgroup cgroup rw,{name}\n"
    for place, name in enumerate(("cpu,cpuacct", "cpuset", "memory", "pids"))
)


def write_files(root: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def fake_machine(root: Path, files: Mapping[str, str] | None = None, /, **probes: Any) -> Machine:
    """Write ``files`` below ``root`` and return the machine they and ``probes`` describe."""
    write_files(root, files or {})
    return Machine(root, Probes(**{"system": "Linux", "start_method": "fork", **probes}))


def v2_machine(root: Path, files: Mapping[str, str], own: str = "/", /, **probes: Any) -> Machine:
    """Return a machine on cgroup v2 whose process is in ``own``; ``files`` are named below /sys/fs/cgroup."""
    tree = {f"/sys/fs/cgroup/{path}": text for path, text in files.items()}
    return fake_machine(
        root, {"/proc/self/mountinfo": CGROUP2_MOUNT, "/proc/self/cgroup": f"0::{own}\n", **tree}, **probes
    )


def v1_machine(root: Path, files: Mapping[str, str], own: str = "/", /, **probes: Any) -> Machine:
    """Return a machine on cgroup v1 whose process is in ``own`` everywhere; ``files`` as for `v2_machine`."""
    tree = {f"/sys/fs/cgroup/{path}": text for path, text in files.items()}
    membership = f"4:memory:{own}\n3:cpuset:{own}\n2:cpu,cpuacct:{own}\n5:pids:{own}\n1:name=systemd:/\n"
    return fake_machine(root, {"/proc/self/mountinfo": V1_MOUNTS, "/proc/self/cgroup": membership, **tree}, **probes)
