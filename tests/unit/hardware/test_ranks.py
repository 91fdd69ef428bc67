from __future__ import annotations

from pathlib import Path

import pytest

from lf_autoworkers.hardware.facts import RankFacts
from lf_autoworkers.hardware.gpu import read_gpus
from lf_autoworkers.hardware.machine import Machine
from lf_autoworkers.hardware.nvml import NvmlAnswer, NvmlDevice
from lf_autoworkers.hardware.ranks import expected_ranks, read_ranks

from .fake import fake_machine, write_files


def gpus(count: int) -> NvmlAnswer:
    return NvmlAnswer("570.1", tuple(NvmlDevice(i, f"GPU-{i}", "card", None) for i in range(count)), None)


def expected(machine: Machine) -> RankFacts:
    return expected_ranks(machine, read_gpus(machine))


@pytest.mark.parametrize(
    ("environment", "facts"),
    [
        ({}, RankFacts(1, "one process")),
        ({"WORLD_SIZE": "1", "RANK": "0"}, RankFacts(1, "one process")),
        (
            {"LOCAL_WORLD_SIZE": "8", "LOCAL_RANK": "3", "WORLD_SIZE": "16", "RANK": "11"},
            RankFacts(8, "LOCAL_WORLD_SIZE", 3, 16),
        ),
        ({"LOCAL_WORLD_SIZE": "2"}, RankFacts(2, "LOCAL_WORLD_SIZE", 0, 2)),
        # Ray: never more than there are GPUs, nor than there are ranks.
        (
            {"WORLD_SIZE": "16", "RANK": "4", "CUDA_VISIBLE_DEVICES": "1"},
            RankFacts(4, "WORLD_SIZE=16 without LOCAL_WORLD_SIZE, as under Ray; GPUs on this node: 4", 0, 16),
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"},
            RankFacts(2, "WORLD_SIZE=2 without LOCAL_WORLD_SIZE, as under Ray; GPUs on this node: 4", 1, 2),
        ),
        # srun: each task is a rank.
        (
            {
                "WORLD_SIZE": "6",
                "SLURM_PROCID": "5",
                "SLURM_NTASKS": "6",
                "SLURM_NTASKS_PER_NODE": "3",
                "SLURM_LOCALID": "2",
            },
            RankFacts(3, "SLURM_NTASKS_PER_NODE=3", 2, 6),
        ),
        # Slurm around something else that counts its own ranks.
        (
            {"WORLD_SIZE": "8", "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"},
            RankFacts(4, "WORLD_SIZE=8 without LOCAL_WORLD_SIZE, as under Ray; GPUs on this node: 4", 0, 8),
        ),
        (
            {"WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
            RankFacts(2, "OMPI_COMM_WORLD_LOCAL_SIZE", 0, 8),
        ),
    ],
)
def test_ranks_as_launchers_set_them(tmp_path: Path, environment: dict[str, str], facts: RankFacts) -> None:
    assert read_ranks(fake_machine(tmp_path, environment=environment, nvml=gpus(4))) == facts


def test_under_ray_without_gpus_one_rank_is_known(tmp_path: Path) -> None:
    assert read_ranks(fake_machine(tmp_path, environment={"WORLD_SIZE": "4", "RANK": "0"})).local_world_size == 1


@pytest.mark.parametrize("text", ["", "0", "-1", "two", "1.5"])
def test_garbage_is_a_problem(tmp_path: Path, text: str) -> None:
    machine = fake_machine(tmp_path, environment={"LOCAL_WORLD_SIZE": text})

    assert read_ranks(machine) == RankFacts(1, "one process")
    assert machine.problems == [f"LOCAL_WORLD_SIZE holds {text!r}, which could not be understood."]


@pytest.mark.parametrize(
    ("devices", "environment", "facts"),
    [
        (0, {}, RankFacts(1, "one process: no GPU (no NVIDIA driver)")),
        (1, {}, RankFacts(1, "one process: 1 GPU (NVML 570.1)")),
        (8, {}, RankFacts(8, "8 GPUs (NVML 570.1)", 0, 8)),
        (
            8,
            {"CUDA_VISIBLE_DEVICES": "0,1"},
            RankFacts(2, "2 GPUs (NVML 570.1, CUDA_VISIBLE_DEVICES=0,1)", 0, 2),
        ),
        (8, {"CUDA_VISIBLE_DEVICES": ""}, RankFacts(1, "one process: 0 GPUs (NVML 570.1, CUDA_VISIBLE_DEVICES=)")),
        (8, {"NPROC_PER_NODE": "4"}, RankFacts(4, "NPROC_PER_NODE=4", 0, 4)),
        (8, {"NNODES": "2"}, RankFacts(8, "8 GPUs (NVML 570.1)", 0, 16)),
        (8, {"USE_RAY": "1"}, RankFacts(1, "one process: USE_RAY=1")),
        (8, {"USE_KT": "true"}, RankFacts(1, "one process: USE_KT=1")),
        (8, {"USE_RAY": "1", "FORCE_TORCHRUN": "1"}, RankFacts(8, "FORCE_TORCHRUN=1, 8 GPUs (NVML 570.1)", 0, 8)),
        # NPROC_PER_NODE alone does not start torchrun.
        (0, {"NPROC_PER_NODE": "4"}, RankFacts(1, "one process: no GPU (no NVIDIA driver)")),
        (0, {"NPROC_PER_NODE": "2", "FORCE_TORCHRUN": "1"}, RankFacts(2, "FORCE_TORCHRUN=1, NPROC_PER_NODE=2", 0, 2)),
        (0, {"NPROC_PER_NODE": "2", "FORCE_TORCHRUN": "0"}, RankFacts(1, "one process: no GPU (no NVIDIA driver)")),
        (0, {"NPROC_PER_NODE": "2", "USE_MCA": "Y"}, RankFacts(2, "USE_MCA=1, NPROC_PER_NODE=2", 0, 2)),
        (
            0,
            {"FORCE_TORCHRUN": "1"},
            RankFacts(1, "FORCE_TORCHRUN=1, NPROC_PER_NODE is not set, no GPU (no NVIDIA driver)"),
        ),
        (4, {"NPROC_PER_NODE": "gpu"}, RankFacts(4, "NPROC_PER_NODE=gpu", 0, 4)),
        (
            0,
            {"NPROC_PER_NODE": "cpu", "FORCE_TORCHRUN": "1"},
            RankFacts(6, "FORCE_TORCHRUN=1, NPROC_PER_NODE=cpu", 0, 6),
        ),
    ],
)
def test_ranks_as_the_launcher_will_count_them(
    tmp_path: Path, devices: int, environment: dict[str, str], facts: RankFacts
) -> None:
    answer = gpus(devices) if devices else NvmlAnswer()

    assert expected(fake_machine(tmp_path, environment=environment, nvml=answer, cpu_count=6)) == facts


def test_amd_gpus_are_counted_by_the_drivers_files(tmp_path: Path) -> None:
    nodes = "/sys/class/kfd/kfd/topology/nodes"
    files = {f"{nodes}/{i}/properties": f"cpu_cores_count 0\nsimd_count {0 if i < 1 else 304}\n" for i in range(3)}
    machine = fake_machine(tmp_path, files)

    assert expected(machine) == RankFacts(2, "2 AMD GPUs assumed from the device files", 0, 2)


@pytest.mark.parametrize(
    ("environment", "source", "count"),
    [
        ({}, "4 Ascend NPUs assumed from the device files", 4),
        ({"ASCEND_RT_VISIBLE_DEVICES": "0,1"}, "2 Ascend NPUs assumed from ASCEND_RT_VISIBLE_DEVICES=0,1", 2),
    ],
)
def test_npus_are_counted_by_device_file_or_variable(
    tmp_path: Path, environment: dict[str, str], source: str, count: int
) -> None:
    machine = fake_machine(tmp_path, {f"/dev/davinci{i}": "" for i in range(4)}, environment=environment)
    write_files(tmp_path, {"/dev/davinci_manager": ""})

    assert expected(machine) == RankFacts(count, source, 0, count)


def test_intel_gpus_are_told_from_others_by_their_vendor(tmp_path: Path) -> None:
    files = {f"/dev/dri/renderD{128 + i}": "" for i in range(3)}
    vendors = ("0x8086\n", "0x8086\n", "0x1234\n")
    files |= {f"/sys/class/drm/renderD{128 + i}/device/vendor": text for i, text in enumerate(vendors)}

    assert expected(fake_machine(tmp_path, files)).local_world_size == 2
    assert expected(fake_machine(tmp_path, files, environment={"ZE_AFFINITY_MASK": "0"})).local_world_size == 1


def test_nvidia_cards_have_render_nodes_of_their_own(tmp_path: Path) -> None:
    files = {"/dev/dri/renderD128": "", "/sys/class/drm/renderD128/device/vendor": "0x8086\n"}

    assert expected(fake_machine(tmp_path, files, nvml=gpus(2))).source == "2 GPUs (NVML 570.1)"
