"""The GPUs this process will see.

Covers ``CUDA_VISIBLE_DEVICES`` and MIG over what NVML said. Does not ask NVML (`nvml` does), and knows nothing of
other makers' devices (`ranks` counts those for the launcher).
"""

from __future__ import annotations

from collections.abc import Sequence

from .facts import Gpu, GpuFacts
from .machine import Machine
from .nvml import NvmlDevice


def read_gpus(machine: Machine) -> GpuFacts:
    """Return the visible NVIDIA GPUs, or why there is no answer."""
    answer = machine.probes.nvml
    if answer.error is not None:
        return GpuFacts((), answer.error)
    source = f"NVML {answer.driver}"
    wanted = machine.environment("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return GpuFacts(_enumerated([(device, "") for device in answer.devices]), source)
    return GpuFacts(_enumerated(_selected(answer.devices, wanted)), f"{source}, CUDA_VISIBLE_DEVICES={wanted}")


def _selected(devices: Sequence[NvmlDevice], wanted: str) -> list[tuple[NvmlDevice, str]]:
    """Return the devices ``wanted`` names, each with the MIG UUID it was named by, if any.

    As CUDA does (CUDA C++ Programming Guide, environment variables): the list ends at the first entry that names
    nothing (``-1`` is a common way to say so), and naming a device twice leaves none.
    """
    chosen: list[tuple[NvmlDevice, str]] = []
    for entry in (part.strip() for part in wanted.split(",")):
        found = _named(devices, entry)
        if found is None:
            break
        if found in chosen:
            return []
        chosen.append(found)
    return chosen


def _named(devices: Sequence[NvmlDevice], entry: str) -> tuple[NvmlDevice, str] | None:
    if entry.isdecimal():
        place = int(entry)
        return (devices[place], "") if place < len(devices) else None
    if entry.startswith("MIG-"):
        matches = [(device, mig.uuid) for device in devices for mig in device.mig if mig.uuid.startswith(entry)]
        # Drivers before 470 name an instance by its GPU: MIG-GPU-<uuid>/<gpu instance>/<compute instance>.
        matches += [(d, d.mig[0].uuid) for d in devices if d.mig and entry.startswith(f"MIG-{d.uuid}/")]
    elif entry.startswith("GPU-"):
        matches = [(device, "") for device in devices if device.uuid.startswith(entry)]
    else:
        return None
    return matches[0] if len(matches) == 1 else None


def _enumerated(chosen: Sequence[tuple[NvmlDevice, str]]) -> tuple[Gpu, ...]:
    """Return what CUDA enumerates of ``chosen``.

    Once a MIG instance is among them CUDA shows that one alone, and no whole GPU (NVIDIA Multi-Instance GPU User
    Guide, "CUDA visible devices").
    """
    for device, uuid in chosen:
        for instance in device.mig:
            if uuid in ("", instance.uuid):
                return (Gpu(device.index, instance.name, instance.memory_bytes),)
    return tuple(Gpu(device.index, device.name, device.memory_bytes) for device, _ in chosen)
