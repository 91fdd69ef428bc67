"""Everything about a machine that is no file: affinity, resource limits, /dev/shm's size, NVML, environment variables.

Covers asking this machine (`live_probes`) and the shape of the answers, which `machine.json` of a saved machine
holds. Does not read kernel files (`machine` does) and draws no conclusions (`cpu`, `memory`, `limits`, `gpu`,
`ranks` do).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .nvml import NvmlAnswer, ask_nvml
from .own_job import own_job_bytes

ENVIRONMENT_NAMES = (
    "ASCEND_RT_VISIBLE_DEVICES",
    "CUDA_VISIBLE_DEVICES",
    "FORCE_TORCHRUN",
    "GOMP_CPU_AFFINITY",
    "HIP_VISIBLE_DEVICES",
    "KMP_AFFINITY",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MPI_LOCALNRANKS",
    "MV2_COMM_WORLD_LOCAL_SIZE",
    "NNODES",
    "NPROC_PER_NODE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "RANK",
    "ROCR_VISIBLE_DEVICES",
    "SLURM_CPUS_ON_NODE",
    "SLURM_CPUS_PER_TASK",
    "SLURM_JOB_CPUS_PER_NODE",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_NTASKS",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_TASKS_PER_NODE",
    "USE_KT",
    "USE_MCA",
    "USE_RAY",
    "WORLD_SIZE",
    "ZE_AFFINITY_MASK",
)
"""The variables facts depend on. No other variable of the environment is ever looked at or saved."""

Rlimit = tuple[int | None, int | None]
"""A soft and a hard limit; ``None`` in a place means unlimited."""


@dataclass(frozen=True, slots=True)
class Probes:
    """The answers of one machine to everything that is no file.

    Attributes:
        system: ``Linux``, ``Darwin`` or ``Windows``.
        start_method: How ``multiprocessing`` starts workers.
        cpu_count: ``os.cpu_count()``, for systems without /sys.
        affinity: CPUs this process may run on; ``None`` where the system has no such call.
        user_id: Effective user id; ``None`` on Windows.
        user_threads: Threads this user runs; only asked where RLIMIT_NPROC counts, else ``None``.
        nofile: RLIMIT_NOFILE; ``None`` where the system has none.
        nproc: RLIMIT_NPROC; ``None`` where the system has none.
        shm: Total and free bytes of /dev/shm; ``None`` where there is none.
        memory: Total and available bytes of the host, for systems without /proc.
        nvml: What NVML said.
        own_bytes: Memory of this training job's own processes, see `own_job`.
        environment: Those of `ENVIRONMENT_NAMES` that are set.
        problems: One sentence for each question that failed though it should have worked.
        about: One line on what machine this is.
    """

    system: str
    start_method: str
    cpu_count: int | None = None
    affinity: frozenset[int] | None = None
    user_id: int | None = None
    user_threads: int | None = None
    nofile: Rlimit | None = None
    nproc: Rlimit | None = None
    shm: tuple[int, int] | None = None
    memory: tuple[int, int] | None = None
    nvml: NvmlAnswer = field(default_factory=NvmlAnswer)
    own_bytes: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    about: str = ""


def live_probes(root: Path = Path("/")) -> Probes:
    """Ask this machine.

    Args:
        root: Where /proc and /dev are looked up; the calls themselves always ask this machine.
    """
    problems: list[str] = []
    nproc = _rlimit("RLIMIT_NPROC", problems)
    user_id = os.geteuid() if hasattr(os, "geteuid") else None
    counts_threads = bool(user_id) and nproc is not None and nproc[0] is not None
    return Probes(
        system=platform.system(),
        start_method=_start_method(),
        cpu_count=os.cpu_count(),
        affinity=_affinity(problems),
        user_id=user_id,
        user_threads=_user_threads(root / "proc", user_id) if counts_threads and user_id is not None else None,
        nofile=_rlimit("RLIMIT_NOFILE", problems),
        nproc=nproc,
        shm=_shm_size(root / "dev/shm", problems),
        memory=None if (root / "proc/meminfo").exists() else _psutil_memory(problems),
        nvml=ask_nvml(root),
        own_bytes=own_job_bytes(root / "proc", os.getpid()),
        environment={name: os.environ[name] for name in ENVIRONMENT_NAMES if name in os.environ},
        problems=tuple(problems),
    )


def _start_method() -> str:
    # get_start_method() without allow_none would fix the default and make a later set_start_method() fail.
    chosen = multiprocessing.get_start_method(allow_none=True)
    return chosen or multiprocessing.get_all_start_methods()[0]


def _affinity(problems: list[str]) -> frozenset[int] | None:
    if not hasattr(os, "sched_getaffinity"):
        return None
    try:
        return frozenset(os.sched_getaffinity(0))
    except OSError as error:
        problems.append(f"sched_getaffinity failed: {error.strerror}.")
        return None


def _rlimit(name: str, problems: list[str]) -> Rlimit | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    if not hasattr(resource, name):
        return None
    try:
        soft, hard = resource.getrlimit(getattr(resource, name))
    except (OSError, ValueError) as error:
        problems.append(f"{name} cannot be read: {error}.")
        return None
    unlimited = resource.RLIM_INFINITY
    return (None if soft == unlimited else soft, None if hard == unlimited else hard)


def _user_threads(proc: Path, user_id: int) -> int | None:
    """Count the threads of ``user_id``: RLIMIT_NPROC bounds threads of a user, not of a process (setrlimit(2))."""
    threads = 0
    try:
        with os.scandir(proc) as entries:
            for entry in entries:
                # A process may end while it is looked at.
                with contextlib.suppress(OSError, IndexError, ValueError):
                    if entry.name.isdigit() and entry.stat().st_uid == user_id:
                        stat = Path(entry.path, "stat").read_text(errors="replace")
                        threads += int(stat.rpartition(")")[2].split()[17])
    except OSError:
        return None
    return threads or None


def _shm_size(path: Path, problems: list[str]) -> tuple[int, int] | None:
    if not hasattr(os, "statvfs"):
        return None
    try:
        stat = os.statvfs(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        problems.append(f"/dev/shm cannot be asked for its size: {error.strerror}.")
        return None
    return stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize


def _psutil_memory(problems: list[str]) -> tuple[int, int] | None:
    try:
        import psutil

        memory = psutil.virtual_memory()
    except Exception as error:  # psutil wraps a different call on each system; no memory fact is worth the run
        problems.append(f"psutil cannot tell the memory of this machine: {error}.")
        return None
    return int(memory.total), int(memory.available)
