"""What a training run takes of the host's memory, and how many workers the rest carries.

Covers loader workers and ``Dataset.map`` processes. The loader's number starts from the headroom found now; every
number that must be the same on all ranks and all days starts from the limit (`limit_budget`).
"""

from __future__ import annotations

from lf_autoworkers.hardware.facts import Hardware
from lf_autoworkers.plan.decision import Cap, Request
from lf_autoworkers.units import GIB, MIB, format_size, round_down
from lf_autoworkers.workload.facts import Modality, Workload

ROUNDING_BYTES = 256 * MIB
"""Memory readings are rounded down to this, so that two readings a moment apart give one number."""

TRAINER_BYTES = 1280 * MIB
GPU_TRAINER_BYTES = 2 * GIB
"""Private memory of one training process without its model: LLaMA-Factory, torch and transformers imported hold
0.9 GiB (measured, LLaMA-Factory 0.9.5); a CUDA context, NCCL and pinned buffers come on top (an allowance: CUDA's
libraries are file pages, which the kernel can take back)."""

WORKER_BYTES = {"fork": 128 * MIB, "other": 768 * MIB}
"""Private memory of an idle worker: a forked one shares its parent's pages (48 to 57 MiB USS measured, copies of
reference-counted pages come with time), any other imports everything again (0.6 to 0.7 GiB measured)."""

MAP_PROCESS_BYTES = {"fork": 256 * MIB, "other": 768 * MIB}
"""The same for one ``Dataset.map`` process with 1,000 short rows in hand (120 to 188 MiB USS measured)."""

RESERVE_FRACTION = 0.1
MIN_RESERVE_BYTES = 512 * MIB
"""Left for what nobody plans: the allocator's slack, saving a checkpoint, a shell."""

OPTIMIZER_FACTOR = 3
"""Gradients and Adam's two moments, each as large as the weights, for a full fine-tune in host memory."""

OFFLOAD_FACTOR = 8
"""Host bytes per checkpoint byte when DeepSpeed offloads: fp32 weights, gradients and two moments per bf16 weight."""


def reserve_bytes(size: int, request: Request) -> int:
    """Return the bytes left alone out of ``size`` bytes; grows slower than ``size``, so more memory is never worse."""
    if request.reserve_bytes is not None:
        return request.reserve_bytes
    return max(MIN_RESERVE_BYTES, int(size * RESERVE_FRACTION))


def trainers_bytes(hardware: Hardware, workload: Workload) -> tuple[int, str]:
    """Return the host bytes of all training processes of this node, models included, and what they are made of."""
    ranks = hardware.ranks.local_world_size
    has_gpu = bool(hardware.gpus.gpus)
    base = ranks * (GPU_TRAINER_BYTES if has_gpu else TRAINER_BYTES)
    text = f"{format_size(base)} of trainer" + ("s" if ranks > 1 else "")
    checkpoint = workload.checkpoint_bytes
    if checkpoint is None:
        return base, text
    model = 0
    if workload.offloads_optimizer:
        model = checkpoint * OFFLOAD_FACTOR  # sharded over the ranks: once per node
    elif not has_gpu:
        model = ranks * checkpoint * (1 + (OPTIMIZER_FACTOR if workload.trains_all_weights else 0))
    if model:
        text += f" - {format_size(model)} of model"
    return base + model, text


def limit_budget(hardware: Hardware, workload: Workload, request: Request) -> tuple[int, str, str] | None:
    """Return what the limit leaves for workers, as (bytes, arithmetic, source): a function of totals alone."""
    limit = hardware.memory.limit
    if limit is None:
        return None
    reserve = reserve_bytes(limit[0], request)
    trainers, text = trainers_bytes(hardware, workload)
    budget = round_down(limit[0] - reserve - trainers, ROUNDING_BYTES)
    return budget, f"{format_size(limit[0])} limit - {format_size(reserve)} reserve - {text}", limit[1]


def headroom_budget(hardware: Hardware, workload: Workload, request: Request) -> tuple[int, str, str] | None:
    """Return what is left now for workers, as (bytes, arithmetic, source)."""
    headroom = hardware.memory.headroom
    if headroom is None:
        return None
    free = round_down(headroom[0], ROUNDING_BYTES)
    reserve = reserve_bytes(free, request)
    trainers, text = trainers_bytes(hardware, workload)
    budget = max(0, free - reserve - trainers)
    return budget, f"{format_size(free)} headroom - {format_size(reserve)} reserve - {text}", headroom[1]


def loader_memory_cap(
    hardware: Hardware, workload: Workload, request: Request, ranks: int, in_flight_bytes: int
) -> Cap:
    """Return the memory cap on one rank's loader workers.

    Args:
        ranks: Ranks of this node that run workers.
        in_flight_bytes: Finished batches one worker can have waiting.
    """
    # A shard count must come out the same on every rank and on resume, so it may not look at free memory.
    found = (limit_budget if workload.streaming else headroom_budget)(hardware, workload, request)
    if found is None:
        return Cap("memory", 2, "neither a limit nor the free memory could be read", "no memory reading")
    budget, text, source = found
    forked = hardware.start_method == "fork" or hardware.system == "Linux"
    loaders = 2 if workload.evaluates else 1
    private = WORKER_BYTES["fork" if forked else "other"] * loaders + workload.decode_bytes
    each = private + in_flight_bytes
    because = f"{text} = {format_size(budget)}"
    if ranks > 1:
        because += f" / {ranks} ranks"
    because += f" / {format_size(each)} per worker"
    if workload.evaluates:
        because += " (train and eval loaders)"
    value = budget // ranks // each
    if value == 0 and request.elastic and request.guarded and hardware.system == "Linux" and not workload.streaming:
        because += "; 1 all the same, under the memory guard's eye"
        return Cap("memory", 1, because, source, room=False)
    return Cap("memory", value, because, source)


def map_memory_cap(hardware: Hardware, workload: Workload, request: Request) -> Cap:
    """Return the memory cap on ``Dataset.map`` processes of this node (one rank runs them, no model is loaded yet)."""
    limit = hardware.memory.limit
    if limit is None:
        return Cap("memory", 2, "no memory limit could be read", "no memory reading")
    forked = hardware.start_method == "fork"
    each = MAP_PROCESS_BYTES["fork" if forked else "other"] + workload.preprocessing_row_bytes
    reserve = reserve_bytes(limit[0], request)
    trainers = hardware.ranks.local_world_size * TRAINER_BYTES
    budget = round_down(limit[0] - reserve - trainers, ROUNDING_BYTES)
    kind = "text" if workload.modality is Modality.TEXT else f"{workload.modality} rows"
    because = (
        f"{format_size(limit[0])} limit - {format_size(reserve)} reserve - {format_size(trainers)} of trainers"
        f" = {format_size(budget)} / {format_size(each)} per process ({kind})"
    )
    return Cap("memory", budget // each, because, limit[1])
