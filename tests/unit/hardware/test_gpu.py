from __future__ import annotations

from pathlib import Path

import pytest

from lf_autoworkers.hardware.facts import Gpu
from lf_autoworkers.hardware.gpu import read_gpus
from lf_autoworkers.hardware.nvml import MigInstance, NvmlAnswer, NvmlDevice
from lf_autoworkers.units import GIB

from .fake import fake_machine


def device(index: int, *mig: MigInstance) -> NvmlDevice:
    return NvmlDevice(index, f"GPU-{index}aaaaaaa-0000", f"card {index}", 80 * GIB, mig)


FOUR = NvmlAnswer("570.1", tuple(device(index) for index in range(4)), None)
HALVES = tuple(MigInstance(f"MIG-{letter}", f"slice {letter}", 40 * GIB) for letter in "xy")


def visible(tmp_path: Path, answer: NvmlAnswer, wanted: str | None) -> list[str]:
    environment = {} if wanted is None else {"CUDA_VISIBLE_DEVICES": wanted}
    return [gpu.name for gpu in read_gpus(fake_machine(tmp_path, nvml=answer, environment=environment)).gpus]


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [
        (None, [0, 1, 2, 3]),
        ("0,1", [0, 1]),
        ("3, 1", [3, 1]),
        ("", []),
        ("-1", []),
        ("0,-1,2", [0]),
        ("9", []),
        ("1,9,2", [1]),
        ("NoDevFiles", []),
        ("0,0", []),
        ("GPU-2aaaaaaa-0000", [2]),
        ("GPU-2a,GPU-1a", [2, 1]),
        ("GPU-", []),
        ("GPU-9", []),
        ("1,GPU-1a", []),
    ],
)
def test_the_list_of_visible_devices_is_read_as_cuda_reads_it(
    tmp_path: Path, wanted: str | None, indices: list[int]
) -> None:
    assert visible(tmp_path, FOUR, wanted) == [f"card {index}" for index in indices]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (None, ["slice x"]),
        ("0", ["card 0"]),
        ("1", ["slice x"]),
        ("0,1", ["slice x"]),
        ("MIG-y", ["slice y"]),
        ("MIG-x,MIG-y", ["slice x"]),
        ("MIG-GPU-1aaaaaaa-0000/7/0", ["slice x"]),
        ("MIG-z", []),
    ],
)
def test_a_mig_instance_is_alone(tmp_path: Path, wanted: str | None, names: list[str]) -> None:
    assert visible(tmp_path, NvmlAnswer("570.1", (device(0), device(1, *HALVES)), None), wanted) == names


def test_a_gpu_carries_index_name_and_memory(tmp_path: Path) -> None:
    machine = fake_machine(tmp_path, nvml=FOUR, environment={"CUDA_VISIBLE_DEVICES": "2"})
    facts = read_gpus(machine)

    assert facts.gpus == (Gpu(2, "card 2", 80 * GIB),)
    assert facts.source == "NVML 570.1, CUDA_VISIBLE_DEVICES=2"


@pytest.mark.parametrize("error", ["no NVIDIA driver", "NVML: Driver/library version mismatch"])
def test_no_answer_is_told_as_the_source(tmp_path: Path, error: str) -> None:
    machine = fake_machine(tmp_path, nvml=NvmlAnswer(error=error))
    facts = read_gpus(machine)

    assert (facts.gpus, facts.source) == ((), error)
    assert machine.problems == []
