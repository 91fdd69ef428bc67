"""Asking NVIDIA's management library which GPUs there are.

Covers the questions and the shape of the answers. Does not apply ``CUDA_VISIBLE_DEVICES`` (`gpu` does). NVML creates
no CUDA context, is initialised for the time of the questions only, and is not loaded where there is no driver.
"""

from __future__ import annotations

import contextlib
import platform
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Any of these means that a driver may answer: bare metal and containers, WSL 2, Jetson.
_DRIVER_SIGNS = ("dev/nvidiactl", "proc/driver/nvidia/version", "dev/dxg", "dev/nvhost-ctrl-gpu", "dev/nvgpu")


@dataclass(frozen=True, slots=True)
class MigInstance:
    """One MIG instance: its UUID (``MIG-...``), name and memory in bytes."""

    uuid: str
    name: str
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class NvmlDevice:
    """One physical GPU, visible to this process or not; ``mig`` holds its MIG instances."""

    index: int
    uuid: str
    name: str
    memory_bytes: int | None
    mig: tuple[MigInstance, ...] = ()


@dataclass(frozen=True, slots=True)
class NvmlAnswer:
    """What NVML said.

    Attributes:
        driver: Version of the driver; ``None`` without an answer.
        devices: All GPUs of the machine that the driver shows, in NVML's order.
        error: Why there is no answer; ``None`` where there is one.
    """

    driver: str | None = None
    devices: tuple[NvmlDevice, ...] = ()
    error: str | None = "no NVIDIA driver"


def ask_nvml(root: Path = Path("/")) -> NvmlAnswer:
    """Ask the driver of this machine; never raises.

    Args:
        root: Where the driver's device files are looked for before the library (0.1 s to import) is loaded.
    """
    if platform.system() != "Windows" and not any((root / sign).exists() for sign in _DRIVER_SIGNS):
        return NvmlAnswer()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package `pynvml` warns that `nvidia-ml-py` replaces it
            import pynvml
    except Exception as error:
        return NvmlAnswer(error=f"NVML's Python binding cannot be loaded: {error}")
    return read_nvml(pynvml)


def read_nvml(pynvml: Any) -> NvmlAnswer:
    """Return what the library behind ``pynvml`` says; its errors become `NvmlAnswer.error`."""
    try:
        pynvml.nvmlInit()
    except Exception as error:
        return NvmlAnswer(error=f"NVML: {error}")
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        devices = tuple(_device(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
        return NvmlAnswer(driver, devices, None)
    except Exception as error:
        return NvmlAnswer(error=f"NVML: {error}")
    finally:
        with contextlib.suppress(Exception):
            pynvml.nvmlShutdown()


def _device(pynvml: Any, index: int) -> NvmlDevice:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    uuid, name, memory_bytes = _describe(pynvml, handle)
    return NvmlDevice(index, uuid, name, memory_bytes, tuple(_mig_instances(pynvml, handle)))


def _describe(pynvml: Any, handle: Any) -> tuple[str, str, int | None]:
    memory_bytes: int | None = None
    with contextlib.suppress(Exception):  # not supported where host and GPU share memory (Jetson, GB10)
        memory_bytes = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    return _text(pynvml.nvmlDeviceGetUUID(handle)), _text(pynvml.nvmlDeviceGetName(handle)), memory_bytes


def _mig_instances(pynvml: Any, handle: Any) -> list[MigInstance]:
    instances: list[MigInstance] = []
    with contextlib.suppress(Exception):  # a GPU without MIG answers "not supported"
        if not pynvml.nvmlDeviceGetMigMode(handle)[0]:
            return instances
        for place in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            with contextlib.suppress(Exception):  # an empty place answers "not found"
                instance = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
                instances.append(MigInstance(*_describe(pynvml, instance)))
    return instances


def _text(value: str | bytes) -> str:
    # Bindings before version 11.515 return bytes.
    return value.decode(errors="replace") if isinstance(value, bytes) else value
