from __future__ import annotations

from pathlib import Path

import pytest

from lf_autoworkers.hardware.cgroup import cgroup_levels
from lf_autoworkers.hardware.machine import Machine

from .fake import CGROUP2_MOUNT, V1_MOUNTS, fake_machine


def paths(machine: Machine, controller: str = "memory") -> list[str]:
    return [level.path for level in cgroup_levels(machine, controller)]


def mount2(root: str, point: str = "/sys/fs/cgroup") -> str:
    return f"32 21 0:27 {root} {point} ro,nosuid - cgroup2 cgroup2 rw\n"


def test_v2_goes_from_the_own_cgroup_to_the_root(tmp_path: Path) -> None:
    machine = fake_machine(
        tmp_path, {"/proc/self/mountinfo": CGROUP2_MOUNT, "/proc/self/cgroup": "0::/a.slice/b.scope\n"}
    )

    assert paths(machine) == ["/sys/fs/cgroup/a.slice/b.scope", "/sys/fs/cgroup/a.slice", "/sys/fs/cgroup"]
    assert {level.version for level in cgroup_levels(machine, "memory")} == {2}


def test_v1_uses_the_mount_and_the_path_of_the_controller(tmp_path: Path) -> None:
    membership = "7:memory:/job\n6:cpu,cpuacct:/other\n1:name=systemd:/x\n"
    machine = fake_machine(tmp_path, {"/proc/self/mountinfo": V1_MOUNTS, "/proc/self/cgroup": membership})

    assert paths(machine) == ["/sys/fs/cgroup/memory/job", "/sys/fs/cgroup/memory"]
    assert paths(machine, "cpu") == ["/sys/fs/cgroup/cpu,cpuacct/other", "/sys/fs/cgroup/cpu,cpuacct"]
    assert paths(machine, "pids") == []


def test_a_hybrid_host_shows_both_hierarchies_v1_first(tmp_path: Path) -> None:
    unified = mount2("/", "/sys/fs/cgroup/unified")
    machine = fake_machine(
        tmp_path, {"/proc/self/mountinfo": unified + V1_MOUNTS, "/proc/self/cgroup": "4:memory:/a\n0::/b\n"}
    )

    assert [(level.version, level.path) for level in cgroup_levels(machine, "memory")] == [
        (1, "/sys/fs/cgroup/memory/a"),
        (1, "/sys/fs/cgroup/memory"),
        (2, "/sys/fs/cgroup/unified/b"),
        (2, "/sys/fs/cgroup/unified"),
    ]


@pytest.mark.parametrize(
    ("membership", "mount_root", "expected"),
    [
        # Docker and Kubernetes with a private cgroup namespace.
        ("/", "/", ["/sys/fs/cgroup"]),
        # The same without one: the path is the host's, the mount shows the container's own part of it.
        ("/docker/0a1b", "/docker/0a1b", ["/sys/fs/cgroup"]),
        ("/docker/0a1b/job", "/docker/0a1b", ["/sys/fs/cgroup/job", "/sys/fs/cgroup"]),
        # A namespace made below the mount: both start above its root.
        ("/../..", "/../..", ["/sys/fs/cgroup"]),
        ("/../../x/y", "/../..", ["/sys/fs/cgroup/x/y", "/sys/fs/cgroup/x", "/sys/fs/cgroup"]),
    ],
)
def test_namespaces_are_seen_through(tmp_path: Path, membership: str, mount_root: str, expected: list[str]) -> None:
    machine = fake_machine(
        tmp_path, {"/proc/self/mountinfo": mount2(mount_root), "/proc/self/cgroup": f"0::{membership}\n"}
    )

    assert paths(machine) == expected
    assert machine.problems == []


@pytest.mark.parametrize(("membership", "mount_root"), [("/../sibling", "/"), ("/", "/.."), ("/a", "/b")])
def test_a_cgroup_outside_the_mount_falls_back_to_its_top_and_says_so(
    tmp_path: Path, membership: str, mount_root: str
) -> None:
    machine = fake_machine(
        tmp_path, {"/proc/self/mountinfo": mount2(mount_root), "/proc/self/cgroup": f"0::{membership}\n"}
    )

    assert paths(machine) == ["/sys/fs/cgroup"]
    assert machine.problems == [
        f"/proc/self/cgroup names {membership}, which /sys/fs/cgroup does not show; its limits may not be found."
    ]


def test_of_several_mounts_the_one_that_shows_most_is_used(tmp_path: Path) -> None:
    mounts = mount2("/elsewhere", "/mnt/a") + mount2("/docker/0a1b", "/mnt/b") + mount2("/", "/mnt/whole")
    machine = fake_machine(tmp_path, {"/proc/self/mountinfo": mounts, "/proc/self/cgroup": "0::/docker/0a1b\n"})

    assert paths(machine) == ["/mnt/whole/docker/0a1b", "/mnt/whole/docker", "/mnt/whole"]


def test_of_equal_mounts_the_later_one_is_used(tmp_path: Path) -> None:
    mounts = mount2("/", "/mnt/first") + mount2("/", "/mnt/second")
    machine = fake_machine(tmp_path, {"/proc/self/mountinfo": mounts, "/proc/self/cgroup": "0::/\n"})

    assert paths(machine) == ["/mnt/second"]


def test_blanks_in_a_mount_point_are_unescaped(tmp_path: Path) -> None:
    machine = fake_machine(
        tmp_path, {"/proc/self/mountinfo": mount2("/", r"/mnt/my\040groups"), "/proc/self/cgroup": "0::/a b\n"}
    )

    assert paths(machine) == ["/mnt/my groups/a b", "/mnt/my groups"]


def test_a_removed_cgroup_keeps_its_path(tmp_path: Path) -> None:
    machine = fake_machine(
        tmp_path, {"/proc/self/mountinfo": CGROUP2_MOUNT, "/proc/self/cgroup": "0::/gone (deleted)\n"}
    )

    assert paths(machine) == ["/sys/fs/cgroup/gone", "/sys/fs/cgroup"]


def test_garbage_is_a_problem_and_the_rest_still_counts(tmp_path: Path) -> None:
    machine = fake_machine(
        tmp_path,
        {"/proc/self/mountinfo": "nonsense\n" + CGROUP2_MOUNT, "/proc/self/cgroup": "one:two\n0::relative\n0::/a\n"},
    )

    assert paths(machine) == ["/sys/fs/cgroup/a", "/sys/fs/cgroup"]
    assert machine.problems == [
        "/proc/self/mountinfo holds 'nonsense', which could not be understood.",
        "/proc/self/cgroup holds 'one:two', which could not be understood.",
        "/proc/self/cgroup holds '0::relative', which could not be understood.",
    ]


def test_no_proc_means_no_cgroups_and_no_problem(tmp_path: Path) -> None:
    machine = fake_machine(tmp_path)

    assert paths(machine) == []
    assert machine.problems == []
