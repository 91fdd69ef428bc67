"""Every machine under tests/machines, its facts worked out by hand from the files in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from lf_autoworkers.hardware import Hardware, Machine, RankFacts, detect_hardware, expected_ranks, save_machine
from lf_autoworkers.units import GIB, MIB

MACHINES = Path(__file__).parents[2] / "machines"
CGROUP = "/sys/fs/cgroup"
MEMINFO = "/proc/meminfo"
POD = (
    f"{CGROUP}/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod4f0e2b7a_91c3_4d55_8e6f_0a1b2c3d4e5f.slice"
)
SCOPE = f"{CGROUP}/user.slice/user-1000.slice/user@1000.service/app.slice/run-rb1f6c2d9.scope"
SLURM1 = f"{CGROUP}/memory/slurm/uid_5012/job_884213"
SLURM2 = f"{CGROUP}/system.slice/slurmstepd.scope/job_51877"


@dataclass(frozen=True)
class Expected:
    """What must come out: (value, source) where a source is told apart, GPUs and ranks as counts."""

    host_cpus: int
    usable_cpus: float
    binding: str
    limit: tuple[int, str]
    headroom: tuple[int, str]
    shm_free: int | None
    nofile: int | None = 1048576
    pids: int | None = None
    oom_group: bool | None = False
    gpus: int = 0
    gpu_name: str = ""
    ranks: int = 1
    launched: int = 1
    system: str = "Linux"
    start_method: str = "fork"
    problems: int = 0


EXPECTED = {
    "laptop_2core": Expected(
        2, 2, "online", (16 * GIB - 412 * MIB, MEMINFO), (11 * GIB, MEMINFO), 8 * GIB - 340 * MIB, pids=18932 - 420
    ),
    "container_4of96": Expected(
        96,
        4,
        "cgroup quota",
        (32 * GIB, f"{CGROUP}/memory.max"),
        # 5 GiB charged, 2.5 GiB of it cache, 80 MiB of that not yet on disk
        (32 * GIB - (5 * GIB - 2560 * MIB + 80 * MIB), f"{CGROUP}/memory.max"),
        8 * GIB - 256 * MIB,
        gpus=1,
        gpu_name="NVIDIA A100-SXM4-40GB",
    ),
    "h100x8_192core": Expected(
        192,
        192,
        "online",
        (2015 * GIB, MEMINFO),
        (1950 * GIB, MEMINFO),
        1007 * GIB,
        pids=679000 - 88,
        gpus=8,
        gpu_name="NVIDIA H100 80GB HBM3",
        launched=8,
    ),
    "docker_shm_64mb": Expected(
        16,
        16,
        "online",
        (126 * GIB, MEMINFO),
        (118 * GIB, MEMINFO),
        64 * MIB,
        gpus=1,
        gpu_name="NVIDIA GeForce RTX 4090",
    ),
    "cgroup_v1_24gib": Expected(
        32,
        6,
        "cgroup quota",
        (24 * GIB, f"{CGROUP}/memory/memory.limit_in_bytes"),
        (24 * GIB - (9 * GIB - 5632 * MIB + 32 * MIB), f"{CGROUP}/memory/memory.limit_in_bytes"),
        16 * GIB - 512 * MIB,
        oom_group=None,
        gpus=1,
        gpu_name="Tesla V100-PCIE-32GB",
    ),
    "k8s_v2_parent_limit_cache95": Expected(
        64,
        12,
        "cgroup quota",
        (64 * GIB, f"{POD}/memory.max"),
        # 60 GiB and 128 MiB charged, 57 GiB of it cache, 128 MiB of that not yet on disk
        (64 * GIB - (3 * GIB + 256 * MIB), f"{POD}/memory.max"),
        32 * GIB,
        pids=4096 - 41,
        oom_group=True,
        gpus=2,
        gpu_name="NVIDIA L40S",
        launched=2,
    ),
    "ram8_gpu1": Expected(
        8,
        8,
        "online",
        (7918 * MIB, MEMINFO),
        (3174 * MIB, MEMINFO),
        3800 * MIB,
        pids=18932 - 420,
        gpus=1,
        gpu_name="NVIDIA GeForce RTX 3060",
    ),
    "slurm_v1": Expected(
        64,
        16,
        "cpuset",
        (120 * GIB, f"{SLURM1}/step_batch/memory.limit_in_bytes"),
        (120 * GIB - (21 - 13) * GIB, f"{SLURM1}/memory.limit_in_bytes"),
        240 * GIB,
        nofile=131072,
        pids=2060000 - 23,
        oom_group=None,
        gpus=2,
        gpu_name="NVIDIA A100-SXM4-80GB",
        launched=2,
    ),
    "wsl2": Expected(
        16,
        16,
        "online",
        (15862 * MIB, MEMINFO),
        (13 * GIB, MEMINFO),
        7931 * MIB,
        pids=63320 - 61,
        oom_group=None,
        gpus=1,
        gpu_name="NVIDIA GeForce RTX 4070",
    ),
    "macos_m3": Expected(
        14,
        14,
        "online",
        (36 * GIB, "psutil.virtual_memory()"),
        (19 * GIB, "psutil.virtual_memory()"),
        None,
        nofile=10240,
        oom_group=None,
        system="Darwin",
        start_method="spawn",
    ),
    "windows_gpu1": Expected(
        24,
        24,
        "online",
        (64 * GIB - 200 * MIB, "psutil.virtual_memory()"),
        (47 * GIB, "psutil.virtual_memory()"),
        None,
        nofile=None,
        oom_group=None,
        gpus=1,
        gpu_name="NVIDIA GeForce RTX 4080",
        system="Windows",
        start_method="spawn",
    ),
    "memory_high_throttled": Expected(
        32,
        32,
        "online",
        (12 * GIB, f"{SCOPE}/memory.high"),
        (12 * GIB - (10 * GIB - 1536 * MIB + 512 * MIB), f"{SCOPE}/memory.high"),
        31 * GIB,
        nofile=524288,
        pids=18932 - 420,
        gpus=1,
        gpu_name="NVIDIA RTX A6000",
    ),
    "fractional_quota_2p5": Expected(
        16,
        2.5,
        "cgroup quota",
        (16 * GIB, f"{CGROUP}/memory.max"),
        (16 * GIB - 640 * MIB, f"{CGROUP}/memory.max"),
        4 * GIB,
    ),
    "pids_limited": Expected(
        64,
        64,
        "online",
        (252 * GIB, MEMINFO),
        (240 * GIB, MEMINFO),
        64 * GIB,
        pids=64 - 40,
        gpus=1,
        gpu_name="NVIDIA A100-SXM4-80GB",
    ),
    "nofile_256": Expected(
        64,
        64,
        "online",
        (252 * GIB, MEMINFO),
        (240 * GIB, MEMINFO),
        126 * GIB,
        nofile=256,
        pids=84931 - 44,
        gpus=1,
        gpu_name="NVIDIA A100-SXM4-80GB",
    ),
    "omp_proc_bind_96": Expected(
        96,
        96,
        "online",
        (754 * GIB, MEMINFO),
        (700 * GIB, MEMINFO),
        377 * GIB,
        pids=254000 - 410,
        gpus=4,
        gpu_name="NVIDIA A100-SXM4-80GB",
        ranks=4,
        launched=4,
    ),
    "hybrid_cgroups": Expected(
        24,
        5,
        "cgroup quota",
        (20 * GIB, f"{CGROUP}/memory/batch.slice/memory.limit_in_bytes"),
        (20 * GIB - (8 * GIB - 2560 * MIB + 128 * MIB), f"{CGROUP}/memory/batch.slice/memory.limit_in_bytes"),
        62 * GIB,
        nofile=524288,
        pids=9000 - 70,
        oom_group=None,
    ),
    "a100x8_8ranks": Expected(
        256,
        256,
        "online",
        (1007 * GIB, MEMINFO),
        (946 * GIB, MEMINFO),  # 940 GiB available, 6 GiB held by the job's own ranks
        504 * GIB,
        gpus=8,
        gpu_name="NVIDIA A100-SXM4-80GB",
        ranks=8,
        launched=8,
    ),
    "cgroup_unreadable": Expected(
        8, 8, "online", (30 * GIB, MEMINFO), (24 * GIB, MEMINFO), GIB, nofile=None, oom_group=None, problems=10
    ),
    "memory_6gib_64core": Expected(
        64,
        64,
        "online",
        (6 * GIB, f"{CGROUP}/memory.max"),
        (6 * GIB - 256 * MIB, f"{CGROUP}/memory.max"),
        16 * GIB,
        gpus=1,
        gpu_name="NVIDIA L4",
    ),
    "taskset_1of64": Expected(
        64,
        1,
        "affinity",
        (252 * GIB, MEMINFO),
        (240 * GIB, MEMINFO),
        126 * GIB,
        pids=1031000 - 44,
        gpus=1,
        gpu_name="NVIDIA A100-SXM4-80GB",
    ),
    "slurm_srun_4ranks": Expected(
        128,
        32,
        "cpuset",
        (200 * GIB, f"{SLURM2}/step_0/user/memory.max"),
        (200 * GIB - (19 * GIB - 19 * GIB // 4 - 19 * GIB // 8), f"{SLURM2}/memory.max"),
        251 * GIB,
        nofile=131072,
        pids=2060000 - 60,
        gpus=4,
        gpu_name="NVIDIA A100-SXM4-40GB",
        ranks=4,
        launched=4,
    ),
    "h100_mig_half": Expected(
        48,
        12,
        "cpuset",
        (96 * GIB, f"{CGROUP}/memory.max"),
        (96 * GIB - 1536 * MIB, f"{CGROUP}/memory.max"),
        16 * GIB,
        gpus=1,
        gpu_name="NVIDIA H100 80GB HBM3 MIG 3g.40gb",
    ),
    "amd_mi300x8": Expected(192, 192, "online", (2267 * GIB, MEMINFO), (2200 * GIB, MEMINFO), 64 * GIB, launched=8),
}


def detect(name: str) -> tuple[Machine, Hardware]:
    machine = Machine.load(MACHINES / name)
    return machine, detect_hardware(machine)


def test_every_machine_is_expected_and_says_what_it_is() -> None:
    found = {path.name for path in MACHINES.iterdir()}

    assert found == set(EXPECTED)
    for name in found:
        about = json.loads((MACHINES / name / "machine.json").read_text())["about"]
        assert about.endswith("."), name
        assert len(about) > 20, name


@pytest.mark.parametrize("name", EXPECTED)
def test_the_facts_of_the_machine(name: str) -> None:
    machine, hardware = detect(name)
    expected = EXPECTED[name]

    assert (hardware.system, hardware.start_method) == (expected.system, expected.start_method)
    assert hardware.cpu.host_cpus == expected.host_cpus
    assert hardware.cpu.usable_cpus == expected.usable_cpus
    assert hardware.cpu.tightest.name == expected.binding
    assert hardware.memory.limit == expected.limit
    assert hardware.memory.headroom == expected.headroom
    assert hardware.memory.oom_group is expected.oom_group
    assert hardware.shm.free_bytes == expected.shm_free
    assert hardware.limits.nofile == expected.nofile
    assert hardware.limits.pids == expected.pids
    assert [gpu.name for gpu in hardware.gpus.gpus] == [expected.gpu_name] * expected.gpus
    assert hardware.ranks.local_world_size == expected.ranks
    assert expected_ranks(machine, hardware.gpus).local_world_size == expected.launched
    assert len(hardware.problems) == expected.problems, hardware.problems


@pytest.mark.parametrize("name", EXPECTED)
def test_the_machine_holds_no_file_nobody_reads(name: str) -> None:
    machine, hardware = detect(name)
    expected_ranks(machine, hardware.gpus)
    files = {
        "/" + path.relative_to(MACHINES / name).as_posix() for path in (MACHINES / name).rglob("*") if path.is_file()
    }

    assert files - machine.texts.keys() - machine.unreadable.keys() == {"/machine.json"}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_machine_survives_being_saved(name: str, tmp_path: Path) -> None:
    machine, hardware = detect(name)
    save_machine(tmp_path / "copy", machine)

    assert detect_hardware(Machine.load(tmp_path / "copy")) == hardware


def test_openmps_binding_is_undone_and_named() -> None:
    _, hardware = detect("omp_proc_bind_96")

    assert hardware.cpu.affinity_shrunk_by == "OMP_PROC_BIND=spread"
    assert hardware.cpu.unshrunk_cpus == tuple(range(96))


def test_one_cpu_of_a_large_host_is_told_with_its_cause() -> None:
    _, hardware = detect("taskset_1of64")

    assert hardware.cpu.tightest.source == "sched_getaffinity: CPUs 5"
    assert hardware.cpu.affinity_shrunk_by is None


def test_ranks_know_their_place() -> None:
    assert detect("a100x8_8ranks")[1].ranks == RankFacts(8, "LOCAL_WORLD_SIZE", 3, 16)
    assert detect("slurm_srun_4ranks")[1].ranks == RankFacts(4, "SLURM_STEP_TASKS_PER_NODE=4(x2)", 2, 8)


def test_problems_tell_file_and_content() -> None:
    _, hardware = detect("cgroup_unreadable")

    assert f"{CGROUP}/cpu.max holds 'unlimited potato', which could not be understood." in hardware.problems
    assert f"{CGROUP}/memory.high cannot be read: Permission denied." in hardware.problems
    assert f"{CGROUP}/cpuset.cpus does not hold text." in hardware.problems
    assert [level.used_bytes for level in hardware.memory.levels] == [12 * GIB]
