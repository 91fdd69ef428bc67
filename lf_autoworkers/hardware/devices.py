"""How many accelerators torch will count, of any maker, without importing torch.

Covers NVIDIA (through `gpu`), AMD, Ascend, Intel and Apple. Beyond NVIDIA it goes by device files and variables, which
is an assumption (torch may be built for another device), and its answer says so.
"""

from __future__ import annotations

from .facts import GpuFacts
from .machine import Machine

_KFD_NODES = "/sys/class/kfd/kfd/topology/nodes/*/properties"
_INTEL_VENDOR = "0x8086"


def accelerator_count(machine: Machine, gpus: GpuFacts) -> tuple[int, str]:
    """Return the number of devices and how it was found."""
    if machine.probes.nvml.devices:
        return len(gpus.gpus), f"{_plural(len(gpus.gpus), 'GPU')} ({gpus.source})"
    for kind, variables, count in (
        ("AMD GPU", ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"), _amd(machine)),
        ("Ascend NPU", ("ASCEND_RT_VISIBLE_DEVICES",), len(machine.glob("/dev/davinci[0-9]*"))),
        ("Intel GPU", ("ZE_AFFINITY_MASK",), _intel(machine)),
    ):
        for variable in variables:
            listed = machine.environment(variable)
            if listed is not None:
                count = _entries(listed)
                return count, f"{_plural(count, kind)} assumed from {variable}={listed}"
        if count:
            return count, f"{_plural(count, kind)} assumed from the device files"
    if machine.probes.system == "Darwin":
        return 1, "Apple's GPU counts as one device"
    return 0, f"no GPU ({gpus.source})"


def _amd(machine: Machine) -> int:
    """Nodes of the ROCm driver that can compute; CPUs are nodes too, without SIMD units."""
    found = 0
    for path in machine.glob(_KFD_NODES):
        lines = (machine.read_text(path) or "").splitlines()
        found += any(line.startswith("simd_count ") and not line.endswith(" 0") for line in lines)
    return found


def _intel(machine: Machine) -> int:
    nodes = (path.rpartition("/")[2] for path in machine.glob("/dev/dri/renderD*"))
    vendors = (machine.read_text(f"/sys/class/drm/{node}/device/vendor") for node in nodes)
    return sum((vendor or "").strip() == _INTEL_VENDOR for vendor in vendors)


def _entries(listed: str) -> int:
    """Entries of a list of devices up to the first that names none."""
    count = 0
    for entry in listed.split(","):
        if not entry.strip() or entry.strip().startswith("-"):
            break
        count += 1
    return count


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
