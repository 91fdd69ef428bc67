"""Every limit on the number of loader workers of one rank, each a function of facts.

Covers the loader. `preprocessing` holds the limits of ``Dataset.map`` processes, `memory` what a run takes of the
host's memory, `planner` takes the minimum. A fact that is ``None`` gives either no cap (nothing of the kind bounds
this machine) or a small one (it should have been readable, and was not).
"""

from __future__ import annotations

import math

from lf_autoworkers.hardware.facts import Hardware
from lf_autoworkers.plan.decision import Cap, Request
from lf_autoworkers.plan.memory import loader_memory_cap
from lf_autoworkers.units import MIB, format_count, format_size
from lf_autoworkers.workload.facts import Modality, Workload

DEFAULT_PREFETCH_FACTOR = 2
"""Batches PyTorch keeps in flight per worker where nobody says (``torch.utils.data.DataLoader``)."""

UNKNOWN_CAP = 2
"""Workers allowed where a fact that should be readable is not: enough to overlap loading and training."""

MAX_WORKERS_PER_RANK = 64
"""No measured training step consumes what more loader processes of one rank can decode."""

FASTEST_STEP_S = 0.05
TARGET_UTILISATION = 0.8
"""A training step of a vision model is hardly ever shorter than 50 ms; workers that are busy more than 80% of the
time make the step wait for the slow batches (queueing delay grows without bound towards 100%)."""

SHM_FRACTION = 0.6
"""Share of the free /dev/shm that batches in flight may take: the rest is for NCCL, other ranks' bursts, the user."""

BASE_FILES = 128
"""Descriptors a training process holds before its loader starts: libraries, sockets, dataset files (about 100 seen)."""

PIDS_PER_WORKER = 4
"""A worker is a process, a queue feeder thread and decoder threads; each counts as a pid."""

BASE_PIDS = 64
"""Threads a training process starts itself after the plan is made (OpenMP, NCCL, the tracker's)."""


def ranks_that_load(hardware: Hardware, workload: Workload, request: Request) -> int:
    """Return how many ranks of this node run loader workers: all, or rank 0 alone where it reads for everybody."""
    if workload.streaming and request.dispatches_batches:
        return 1
    return hardware.ranks.local_world_size


def cpu_share(hardware: Hardware, loading_ranks: int) -> tuple[float, str]:
    """Return the CPUs one rank may give to its workers, and how they were computed.

    One core is left to the rank's own process where it has more than two: on two cores the trainer mostly waits, and
    a second worker was measured to help (benchmarks/README.md).
    """
    cpus = hardware.cpu.usable_cpus
    text = f"{format_count(cpus)} usable"
    if hardware.cpu.host_cpus is not None and hardware.cpu.host_cpus > cpus:
        text += f" of {hardware.cpu.host_cpus} ({hardware.cpu.tightest.name})"
    if loading_ranks > 1:
        cpus /= loading_ranks
        text += f" / {loading_ranks} ranks"
    if cpus >= 3:
        cpus -= 1
        text += " - 1 for the trainer"
    elif cpus > 2:
        cpus = 2.0  # taking a whole one away would give fewer workers than 2 CPUs have
        text += ", in whole ones"
    return cpus, f"{text} = {format_count(round(cpus, 2))}" if len(text.split()) > 2 else text


def _cpu(hardware: Hardware, share: float, because: str) -> Cap:
    return Cap("cpu", max(1, math.floor(share)), because, hardware.cpu.tightest.source)


def _modality(workload: Workload, share: float, because: str) -> Cap | None:
    kind = workload.modality
    source = workload.modality_source
    if kind is Modality.TEXT:
        value = 1 if share < 2 else 2
        return Cap("modality", value, f"text needs no decoding: {value} keep a step fed", source)
    if kind is Modality.VIDEO:
        return None
    fraction = 0.75 if kind is Modality.IMAGE else 0.5
    value = max(1, math.ceil(fraction * math.floor(share)))
    return Cap("modality", value, f"{kind} takes {fraction:.0%} of the CPU share ({because})", source)


def _demand(workload: Workload) -> Cap:
    value = max(1, math.ceil(workload.batch_cpu_s / (TARGET_UTILISATION * FASTEST_STEP_S)))
    because = f"a batch costs about {workload.batch_cpu_s:.2g} CPU s: enough for a step every {FASTEST_STEP_S:g} s"
    return Cap("demand", value, because, workload.batch_source)


def bytes_in_flight(workload: Workload, prefetch: int) -> int:
    """Return the bytes of finished batches one worker can have waiting, train and eval loaders together."""
    evaluation = (workload.eval_batch_bytes or workload.batch_bytes) if workload.evaluates else 0
    return (prefetch + 1) * (workload.batch_bytes + evaluation)


def _shm(hardware: Hardware, workload: Workload, request: Request, ranks: int, prefetch: int) -> Cap | None:
    free = hardware.shm.free_bytes
    if free is None:
        if hardware.system != "Linux" or hardware.shm.total_bytes is None:
            return None
        return Cap("shm", UNKNOWN_CAP, "its free space could not be read", hardware.shm.source)
    each = max(1, bytes_in_flight(workload, prefetch))
    value = int(free * SHM_FRACTION) // ranks // each
    because = f"{SHM_FRACTION:.0%} of {format_size(free)} free in {hardware.shm.source}"
    if ranks > 1:
        because += f" / {ranks} ranks"
    because += f" / {format_size(each)} in flight per worker"
    if value == 0 and request.elastic and hardware.system == "Linux":
        value = 1
        because += "; 1 is safe all the same, the elastic loader's batches travel outside it"
    return Cap("shm", value, because, hardware.shm.source)


def _files(hardware: Hardware, workload: Workload, prefetch: int) -> Cap | None:
    if hardware.limits.nofile is None:
        return None
    loaders = 2 if workload.evaluates else 1
    each = ((prefetch + 1) * max(1, workload.files_per_batch) + 4) * loaders
    value = max(0, hardware.limits.nofile - BASE_FILES) // each
    because = f"{hardware.limits.nofile} open files - {BASE_FILES} of the trainer's / {each} per worker"
    return Cap("files", value, because, hardware.limits.nofile_source)


def _pids(hardware: Hardware, workload: Workload, ranks: int) -> Cap | None:
    if hardware.limits.pids is None:
        return None
    each = PIDS_PER_WORKER * (2 if workload.evaluates else 1)
    value = max(0, hardware.limits.pids // ranks - BASE_PIDS) // each
    because = f"{hardware.limits.pids} processes and threads left"
    if ranks > 1:
        because += f" / {ranks} ranks"
    because += f" - {BASE_PIDS} of the trainer's / {each} per worker"
    return Cap("pids", value, because, hardware.limits.pids_source)


def _batches(hardware: Hardware, workload: Workload) -> Cap | None:
    if workload.train_rows is None or workload.streaming:
        return None
    per_step = max(1, workload.train_batch_size) * hardware.ranks.world_size
    value = max(1, math.ceil(workload.train_rows / per_step))
    about = "" if workload.train_rows_exact else "about "
    because = f"{about}{workload.train_rows} rows are {value} batches per rank and epoch"
    return Cap("batches", value, because, workload.rows_source)


def _shards(hardware: Hardware, workload: Workload, request: Request) -> Cap | None:
    if not workload.streaming or workload.train_rows is None:
        return None
    readers = 1 if request.dispatches_batches else hardware.ranks.world_size
    value = max(1, workload.train_rows // readers)
    because = f"{workload.train_rows} rows are at most that many shards for {readers} reading rank{'s' * (readers > 1)}"
    return Cap("shards", value, because, workload.rows_source)


def _start_method(hardware: Hardware, request: Request) -> Cap | None:
    if hardware.start_method == "fork" or (hardware.system == "Linux" and request.elastic):
        return None
    because = f"workers would be started by {hardware.start_method}, and LLaMA-Factory's collator cannot be pickled"
    return Cap("start method", 0, because, f"multiprocessing on {hardware.system}")


def loader_caps(hardware: Hardware, workload: Workload, request: Request, prefetch: int) -> tuple[Cap, ...]:
    """Return every cap on one rank's loader workers.

    Args:
        hardware: The machine, overrides applied.
        workload: The run.
        request: Who reads, which loader.
        prefetch: Batches in flight per worker (``prefetch_factor``), 1 or more.
    """
    ranks = ranks_that_load(hardware, workload, request)
    share, because = cpu_share(hardware, ranks)
    caps = (
        _cpu(hardware, share, because),
        _modality(workload, share, because),
        _demand(workload),
        loader_memory_cap(hardware, workload, request, ranks, bytes_in_flight(workload, prefetch)),
        _shm(hardware, workload, request, ranks, prefetch),
        _files(hardware, workload, prefetch),
        _pids(hardware, workload, ranks),
        _batches(hardware, workload),
        _shards(hardware, workload, request),
        _start_method(hardware, request),
        Cap("ceiling", MAX_WORKERS_PER_RANK, f"never more than {MAX_WORKERS_PER_RANK} per rank", "lf-autoworkers"),
    )
    return tuple(cap for cap in caps if cap is not None)


def shm_advice(workload: Workload, ranks: int) -> str:
    """Return the sentence that says how to get a larger /dev/shm, with Docker's own flag."""
    need = ranks * 2 * bytes_in_flight(workload, DEFAULT_PREFETCH_FACTOR) / SHM_FRACTION
    size_mib = max(64, math.ceil(need / MIB))
    return (
        f"/dev/shm is too small for these batches; start the container with --shm-size={math.ceil(size_mib / 1024)}g "
        "or --ipc=host (Kubernetes: an emptyDir of medium Memory at /dev/shm)."
    )
