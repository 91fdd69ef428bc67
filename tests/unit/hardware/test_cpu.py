from __future__ import annotations

from pathlib import Path

import pytest

from lf_autoworkers.hardware.cpu import read_cpu
from lf_autoworkers.hardware.facts import CpuConstraint

from .fake import fake_machine, v1_machine, v2_machine, write_files

ONLINE = "/sys/devices/system/cpu/online"
ALL16 = frozenset(range(16))


def status(ppid: int, allowed: str) -> str:
    return f"Name:\tpython\nPPid:\t{ppid}\nCpus_allowed:\tffff\nCpus_allowed_list:\t{allowed}\n"


def test_nothing_narrows_a_plain_machine(tmp_path: Path) -> None:
    facts = read_cpu(fake_machine(tmp_path, {ONLINE: "0-15\n"}, cpu_count=4, affinity=ALL16))

    assert facts.host_cpus == 16
    assert facts.constraints == ()
    assert facts.usable_cpus == 16.0
    assert facts.tightest.source == ONLINE


def test_without_sys_the_count_of_python_is_used(tmp_path: Path) -> None:
    facts = read_cpu(fake_machine(tmp_path, cpu_count=14))

    assert (facts.host_cpus, facts.host_source) == (14, "os.cpu_count()")


def test_nothing_known_is_none_and_one_cpu(tmp_path: Path) -> None:
    facts = read_cpu(fake_machine(tmp_path))

    assert facts.host_cpus is None
    assert facts.usable_cpus == 1.0


def test_affinity_narrows_and_names_its_cpus(tmp_path: Path) -> None:
    facts = read_cpu(fake_machine(tmp_path, {ONLINE: "0-15\n"}, affinity=frozenset({2, 3, 5})))

    assert facts.constraints == (CpuConstraint("affinity", 3.0, "sched_getaffinity: CPUs 2-3,5"),)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("250000 100000\n", 2.5), ("50000 100000\n", 0.5), ("400000 100000\n", 4.0), ("7500 5000\n", 1.5)],
)
def test_a_v2_quota_keeps_its_fraction(tmp_path: Path, text: str, cpus: float) -> None:
    facts = read_cpu(v2_machine(tmp_path, {"cpu.max": text}, cpu_count=16))

    assert facts.tightest == CpuConstraint("cgroup quota", cpus, "/sys/fs/cgroup/cpu.max")


def test_the_smallest_quota_of_the_chain_binds(tmp_path: Path) -> None:
    quotas = {"a/b/cpu.max": "800000 100000\n", "a/cpu.max": "300000 100000\n", "cpu.max": "max 100000\n"}
    facts = read_cpu(v2_machine(tmp_path, quotas, "/a/b", cpu_count=16))

    assert facts.tightest == CpuConstraint("cgroup quota", 3.0, "/sys/fs/cgroup/a/cpu.max")


def test_a_quota_above_the_host_narrows_nothing(tmp_path: Path) -> None:
    facts = read_cpu(v2_machine(tmp_path, {"cpu.max": "3200000 100000\n"}, cpu_count=16))

    assert facts.constraints == ()


def test_a_v1_quota_on_the_parent_binds(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/a/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
        "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    facts = read_cpu(v1_machine(tmp_path, files, "/a", cpu_count=16))

    assert facts.tightest == CpuConstraint("cgroup quota", 1.5, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us")


@pytest.mark.parametrize("text", ["", "potato 100000\n", "100000\n", "100000 0\n", "-5 100000\n", "1 2 3\n"])
def test_a_quota_of_garbage_is_a_problem(tmp_path: Path, text: str) -> None:
    machine = v2_machine(tmp_path, {"cpu.max": text}, cpu_count=16)

    assert read_cpu(machine).constraints == ()
    assert len(machine.problems) == 1
    assert machine.problems[0].startswith("/sys/fs/cgroup/cpu.max holds ")


def test_a_v1_quota_of_garbage_is_a_problem(tmp_path: Path) -> None:
    files = {"cpu,cpuacct/cpu.cfs_quota_us": "many\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}
    machine = v1_machine(tmp_path, files, cpu_count=16)

    assert read_cpu(machine).constraints == ()
    assert machine.problems == [
        "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us holds 'many', which could not be understood."
    ]


def test_a_v2_cpuset_is_the_cause_where_affinity_follows_it(tmp_path: Path) -> None:
    machine = v2_machine(tmp_path, {"cpuset.cpus.effective": "4-7\n"}, cpu_count=16, affinity=frozenset({4, 5, 6, 7}))

    assert read_cpu(machine).tightest == CpuConstraint("cpuset", 4.0, "/sys/fs/cgroup/cpuset.cpus.effective")


def test_a_v2_cgroup_without_the_controller_has_its_parents_cpuset(tmp_path: Path) -> None:
    machine = v2_machine(tmp_path, {"a/cpuset.cpus.effective": "0-1\n"}, "/a/b", cpu_count=16)

    assert read_cpu(machine).tightest.source == "/sys/fs/cgroup/a/cpuset.cpus.effective"


@pytest.mark.parametrize("name", ["cpuset.effective_cpus", "cpuset.cpus"])
def test_a_v1_cpuset_is_read_under_either_name(tmp_path: Path, name: str) -> None:
    machine = v1_machine(tmp_path, {f"cpuset/{name}": "0-2,8\n"}, cpu_count=16)

    assert read_cpu(machine).tightest == CpuConstraint("cpuset", 4.0, f"/sys/fs/cgroup/cpuset/{name}")


def test_an_empty_cpuset_passes_to_the_parent(tmp_path: Path) -> None:
    machine = v1_machine(tmp_path, {"cpuset/a/cpuset.cpus": "\n", "cpuset/cpuset.cpus": "0-5\n"}, "/a", cpu_count=16)

    assert read_cpu(machine).tightest.cpus == 6.0
    assert machine.problems == []


def test_affinity_shrunk_by_openmp_is_the_parents(tmp_path: Path) -> None:
    machine = fake_machine(
        tmp_path,
        {ONLINE: "0-15\n", "/proc/self/status": status(70, "0"), "/proc/70/status": status(1, "0-7")},
        affinity=frozenset({0}),
        environment={"OMP_PROC_BIND": "spread"},
    )
    facts = read_cpu(machine)

    assert facts.affinity_shrunk_by == "OMP_PROC_BIND=spread"
    assert facts.constraints == (CpuConstraint("affinity", 8.0, "Cpus_allowed_list in /proc/70/status: CPUs 0-7"),)
    assert facts.unshrunk_cpus == tuple(range(8))


def test_a_launcher_that_shrank_too_is_passed_over(tmp_path: Path) -> None:
    chain = {
        "/proc/self/status": status(70, "0"),
        "/proc/70/status": status(60, "0"),
        "/proc/60/status": status(1, "0-31"),
    }
    machine = fake_machine(
        tmp_path, {ONLINE: "0-15\n", **chain}, affinity=frozenset({0}), environment={"GOMP_CPU_AFFINITY": "0-15"}
    )

    assert read_cpu(machine).unshrunk_cpus == tuple(range(16))  # 16-31 are offline


def test_one_core_counts_as_a_place(tmp_path: Path) -> None:
    siblings = "/sys/devices/system/cpu/cpu3/topology/thread_siblings_list"
    machine = fake_machine(
        tmp_path,
        {
            ONLINE: "0-15\n",
            siblings: "3,11\n",
            "/proc/self/status": status(70, "3,11"),
            "/proc/70/status": status(1, "0-15"),
        },
        affinity=frozenset({3, 11}),
        environment={"KMP_AFFINITY": "granularity=core,compact"},
    )

    assert read_cpu(machine).usable_cpus == 16.0


def test_in_a_container_whose_first_process_shrank_the_cpuset_tells(tmp_path: Path) -> None:
    machine = v2_machine(
        tmp_path, {"cpuset.cpus.effective": "8-11\n"}, affinity=frozenset({8}), environment={"OMP_PROC_BIND": "true"}
    )
    write_files(tmp_path, {ONLINE: "0-15\n", "/proc/self/status": status(0, "8")})
    facts = read_cpu(machine)

    assert facts.unshrunk_cpus == (8, 9, 10, 11)
    assert facts.usable_cpus == 4.0
    assert facts.affinity_shrunk_by == "OMP_PROC_BIND=true"


@pytest.mark.parametrize("value", ["false", "FALSE", ""])
def test_a_variable_that_binds_nothing_shrinks_nothing(tmp_path: Path, value: str) -> None:
    machine = fake_machine(
        tmp_path,
        {ONLINE: "0-15\n", "/proc/self/status": status(70, "5"), "/proc/70/status": status(1, "0-15")},
        affinity=frozenset({5}),
        environment={"OMP_PROC_BIND": value},
    )
    facts = read_cpu(machine)

    assert facts.affinity_shrunk_by is None
    assert facts.tightest == CpuConstraint("affinity", 1.0, "sched_getaffinity: CPUs 5")


def test_a_range_chosen_by_a_person_stays_beside_the_variable(tmp_path: Path) -> None:
    machine = fake_machine(
        tmp_path,
        {ONLINE: "0-15\n", "/proc/self/status": status(70, "0-3"), "/proc/70/status": status(1, "0-15")},
        affinity=frozenset(range(4)),
        environment={"OMP_PROC_BIND": "true"},
    )
    facts = read_cpu(machine)

    assert facts.affinity_shrunk_by is None
    assert facts.usable_cpus == 4.0


def test_one_cpu_by_taskset_stays_without_the_variable(tmp_path: Path) -> None:
    machine = fake_machine(
        tmp_path,
        {ONLINE: "0-15\n", "/proc/self/status": status(70, "5"), "/proc/70/status": status(1, "0-15")},
        affinity=frozenset({5}),
    )

    assert read_cpu(machine).usable_cpus == 1.0


def test_garbage_in_a_status_file_is_a_problem(tmp_path: Path) -> None:
    machine = fake_machine(
        tmp_path,
        {ONLINE: "0-15\n", "/proc/self/status": status(70, "0"), "/proc/70/status": status(0, "some")},
        affinity=frozenset({0}),
        environment={"OMP_PROC_BIND": "true"},
    )

    assert read_cpu(machine).usable_cpus == 16.0
    assert machine.problems == ["/proc/70/status holds 'some', which could not be understood."]
