"""The questions put to NVML, against a stand-in for its binding: no GPU is needed and none is here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lf_autoworkers.hardware.nvml import MigInstance, NvmlAnswer, NvmlDevice, ask_nvml, read_nvml


class NvmlError(Exception):
    """As NVMLError: raised for everything a card or driver does not do."""


@dataclass
class Binding:
    """Two GPUs, the second cut into MIG instances of which one place is empty; ``broken`` calls raise."""

    broken: frozenset[str] = frozenset()
    as_bytes: bool = False
    calls: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.broken:
                raise NvmlError(f"{name} is not supported")
            return getattr(self, f"_{name}")(*arguments)

        return call

    def _nvmlInit(self) -> None: ...
    def _nvmlShutdown(self) -> None: ...
    def _nvmlSystemGetDriverVersion(self) -> str | bytes:
        return b"470.1" if self.as_bytes else "570.1"

    def _nvmlDeviceGetCount(self) -> int:
        return 2

    def _nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"GPU-{index}"

    def _nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def _nvmlDeviceGetName(self, handle: str) -> str:
        return f"name of {handle}"

    def _nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(total=1000)

    def _nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        if handle == "GPU-0":
            raise NvmlError("not supported")
        return [1, 1]

    def _nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return 3

    def _nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, place: int) -> str:
        if place == 1:
            raise NvmlError("not found")
        return f"MIG-{place}"


def test_devices_and_mig_instances_are_listed_and_nvml_is_shut_down() -> None:
    binding = Binding()

    assert read_nvml(binding) == NvmlAnswer(
        "570.1",
        (
            NvmlDevice(0, "GPU-0", "name of GPU-0", 1000),
            NvmlDevice(
                1,
                "GPU-1",
                "name of GPU-1",
                1000,
                (MigInstance("MIG-0", "name of MIG-0", 1000), MigInstance("MIG-2", "name of MIG-2", 1000)),
            ),
        ),
        None,
    )
    assert (binding.calls[0], binding.calls[-1]) == ("nvmlInit", "nvmlShutdown")


def test_bytes_of_old_bindings_become_text() -> None:
    assert read_nvml(Binding(as_bytes=True)).driver == "470.1"


def test_memory_a_card_does_not_tell_is_none() -> None:
    assert [d.memory_bytes for d in read_nvml(Binding(frozenset({"nvmlDeviceGetMemoryInfo"}))).devices] == [None, None]


@pytest.mark.parametrize("broken", ["nvmlInit", "nvmlSystemGetDriverVersion", "nvmlDeviceGetHandleByIndex"])
def test_an_error_is_the_answer(broken: str) -> None:
    binding = Binding(frozenset({broken}))

    assert read_nvml(binding) == NvmlAnswer(error=f"NVML: {broken} is not supported")
    assert ("nvmlShutdown" in binding.calls) == (broken != "nvmlInit")


def test_a_shutdown_that_fails_spoils_nothing() -> None:
    assert len(read_nvml(Binding(frozenset({"nvmlShutdown"}))).devices) == 2


def test_without_a_driver_the_binding_is_not_loaded(tmp_path: Path) -> None:
    assert ask_nvml(tmp_path) == NvmlAnswer(error="no NVIDIA driver")


def test_a_driver_that_does_not_answer_is_an_error_and_no_exception(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    answer = ask_nvml(tmp_path)

    # Whether this test's own machine has a driver decides which of the two it is.
    assert answer.devices or (answer.error or "").startswith("NVML")
