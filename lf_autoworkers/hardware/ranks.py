"""How many training processes share this machine: now, and once the launcher has run.

Covers the variables launchers set and the device count LLaMA-Factory's launcher starts from. Does not know the training
config: whoever reads it can correct the number where ranks come from there (Ray's ``ray_num_workers``).
"""

from __future__ import annotations

from .devices import accelerator_count
from .facts import GpuFacts, RankFacts
from .machine import Machine
from .slurm import ranks_come_from_srun, slurm_tasks

# Ranks of this node as MPI launchers tell them: Open MPI, Intel MPI, MVAPICH2.
_MPI_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE")


def read_ranks(machine: Machine) -> RankFacts:
    """Return the ranks of this node as the launcher of this process has set them."""
    world_size = _count(machine, "WORLD_SIZE") or 1
    local_rank = _count(machine, "LOCAL_RANK", least=0)
    for name in ("LOCAL_WORLD_SIZE", *_MPI_LOCAL_SIZES):
        here = _count(machine, name)
        if here is not None and (name == "LOCAL_WORLD_SIZE" or world_size > 1):
            return _facts(here, name, local_rank, max(world_size, here))
    if world_size == 1:
        return RankFacts(1, "one process")
    tasks = slurm_tasks(machine)
    if tasks is not None and ranks_come_from_srun(machine):
        place = _count(machine, "SLURM_LOCALID", least=0) if local_rank is None else local_rank
        return _facts(min(tasks[0], world_size), tasks[1], place, world_size)
    # LLaMA-Factory's Ray workers get RANK and WORLD_SIZE only, and each may be shown just its own GPU: all GPUs of
    # the node bound how many of them can be here.
    devices = len(machine.probes.nvml.devices)
    source = f"WORLD_SIZE={world_size} without LOCAL_WORLD_SIZE, as under Ray; GPUs on this node: {devices}"
    return _facts(min(world_size, max(1, devices)), source, local_rank, world_size)


def expected_ranks(machine: Machine, gpus: GpuFacts) -> RankFacts:
    """Return the ranks `llamafactory-cli train` will start on this node, counted as its launcher does.

    Devices torch alone can count (XPU, NPU) are counted by their device files and variables, and the source says so.
    """
    devices, seen = accelerator_count(machine, gpus)
    forced = next((name for name in ("FORCE_TORCHRUN", "USE_MCA") if _enabled(machine, name)), None)
    single = next((name for name in ("USE_RAY", "USE_KT") if _enabled(machine, name)), None)
    if forced is None and (devices <= 1 or single is not None):
        source = f"one process: {single}=1" if single is not None and devices > 1 else f"one process: {seen}"
        return RankFacts(1, source)
    here, source = _processes_per_node(machine, devices, seen)
    if forced is not None:
        source = f"{forced}=1, {source}"
    return RankFacts(here, source, world_size=here * (_count(machine, "NNODES") or 1))


def _processes_per_node(machine: Machine, devices: int, seen: str) -> tuple[int, str]:
    """Return what torchrun makes of NPROC_PER_NODE: a number, or one of its words for "as many as there are"."""
    text = machine.environment("NPROC_PER_NODE")
    if text is None:
        return (devices, seen) if devices else (1, f"NPROC_PER_NODE is not set, {seen}")
    words = {"gpu": devices, "auto": devices or machine.probes.cpu_count or 1, "cpu": machine.probes.cpu_count or 1}
    here = words.get(text.strip()) or _count(machine, "NPROC_PER_NODE") or devices or 1
    return here, f"NPROC_PER_NODE={text}"


def _facts(here: int, source: str, local_rank: int | None, world_size: int) -> RankFacts:
    return RankFacts(here, source, min(local_rank or 0, here - 1), world_size)


def _count(machine: Machine, name: str, least: int = 1) -> int | None:
    """Return the whole number in variable ``name``; ``None`` where it is not set, or (a problem) holds no such."""
    text = machine.environment(name)
    if text is None:
        return None
    if not text.strip().isdecimal() or int(text) < least:
        machine.misread(name, text)
        return None
    return int(text)


def _enabled(machine: Machine, name: str) -> bool:
    # The spellings LLaMA-Factory's is_env_enabled() takes for yes.
    return (machine.environment(name) or "0").lower() in ("true", "y", "1")
