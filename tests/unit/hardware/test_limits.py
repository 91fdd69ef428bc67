from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lf_autoworkers.hardware.facts import ShmFacts
from lf_autoworkers.hardware.limits import NOFILE_CEILING, read_limits, read_shm
from lf_autoworkers.units import MIB

from .fake import fake_machine, v1_machine, v2_machine


@pytest.mark.parametrize(
    ("limits", "system", "expected"),
    [
        ((1024, 4096), "Linux", 4096),
        ((256, 256), "Linux", 256),
        ((1024, 1073741816), "Linux", NOFILE_CEILING),
        ((1 << 24, 1 << 30), "Linux", 1 << 24),
        ((1024, None), "Linux", NOFILE_CEILING),
        ((256, None), "Darwin", 10240),
        ((None, None), "Linux", None),
    ],
)
def test_open_files_are_the_soft_limit_raised(
    tmp_path: Path, limits: tuple[int | None, int | None], system: str, expected: int | None
) -> None:
    assert read_limits(fake_machine(tmp_path, nofile=limits, system=system)).nofile == expected


def test_both_limits_are_named(tmp_path: Path) -> None:
    facts = read_limits(fake_machine(tmp_path, nofile=(256, None)))

    assert facts.nofile_source == "RLIMIT_NOFILE soft 256, hard unlimited"


def test_windows_has_no_such_limits(tmp_path: Path) -> None:
    facts = read_limits(fake_machine(tmp_path, system="Windows"))

    assert (facts.nofile, facts.pids) == (None, None)


def test_pids_are_what_the_tightest_level_still_allows(tmp_path: Path) -> None:
    files = {"a/pids.max": "500\n", "a/pids.current": "20\n", "pids.max": "100\n", "pids.current": "90\n"}
    facts = read_limits(v2_machine(tmp_path, files, "/a"))

    assert (facts.pids, facts.pids_source) == (10, "/sys/fs/cgroup/pids.max")


def test_v1_has_a_pids_controller_too(tmp_path: Path) -> None:
    facts = read_limits(v1_machine(tmp_path, {"pids/pids.max": "64\n", "pids/pids.current": "70\n"}))

    assert (facts.pids, facts.pids_source) == (0, "/sys/fs/cgroup/pids/pids.max")


def test_no_limit_is_none(tmp_path: Path) -> None:
    facts = read_limits(v2_machine(tmp_path, {"pids.max": "max\n", "pids.current": "9\n"}))

    assert (facts.pids, facts.pids_source) == (None, "nothing bounds them")


@pytest.mark.parametrize(("user_id", "pids"), [(1000, 70), (0, None), (None, None)])
def test_the_user_limit_does_not_hold_root(tmp_path: Path, user_id: int | None, pids: int | None) -> None:
    machine = fake_machine(tmp_path, user_id=user_id, nproc=(100, 200), user_threads=30)

    assert read_limits(machine).pids == pids


def test_garbage_is_a_problem(tmp_path: Path) -> None:
    machine = v2_machine(tmp_path, {"pids.max": "few\n", "pids.current": "9\n"})

    assert read_limits(machine).pids is None
    assert machine.problems == ["/sys/fs/cgroup/pids.max holds 'few', which could not be understood."]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64 * MIB, 60 * MIB), ShmFacts(64 * MIB, 60 * MIB, "/dev/shm")),
        ((64 * MIB, 0), ShmFacts(64 * MIB, 0, "/dev/shm")),
        ((0, 0), ShmFacts(None, None, "/dev/shm (mounted without a size)")),
        (None, ShmFacts(None, None, "no /dev/shm")),
    ],
)
def test_shm(tmp_path: Path, size: tuple[int, int] | None, expected: ShmFacts) -> None:
    assert read_shm(fake_machine(tmp_path, shm=size)) == expected


@pytest.mark.parametrize(("soft", "hard", "expected"), [(64, 512, 512), (512, 512, 512)])
def test_raising_takes_the_soft_limit_to_the_hard_one(soft: int, hard: int, expected: int) -> None:
    code = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "from lf_autoworkers.hardware import raise_nofile_limit\n"
        "print(raise_nofile_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.split() == [str(expected), str(expected), str(hard)]
