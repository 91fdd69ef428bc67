"""facts -> Plan: the minimum of the caps, or what somebody with precedence said.

Covers who wins (a forced number, a checkpoint's, what an earlier run learned, the plan's own), the floors, and the
loader arguments that hang on the count. Pure: no reading, no logging. `explain` words what comes out.
"""

from __future__ import annotations

import dataclasses

from lf_autoworkers.hardware.facts import Hardware
from lf_autoworkers.plan.caps import DEFAULT_PREFETCH_FACTOR, loader_caps, ranks_that_load, shm_advice
from lf_autoworkers.plan.decision import (
    PERSISTENT_FIELD,
    PREFETCH_FIELD,
    PREPROCESSING_FIELD,
    Cap,
    Decision,
    Plan,
    Request,
)
from lf_autoworkers.plan.preprocessing import preprocessing_caps
from lf_autoworkers.settings import PREFIX
from lf_autoworkers.workload.facts import Modality, Workload

DEEP_PREFETCH_FACTOR = 4
"""Batches in flight per worker for media: in an ordered loader a deeper queue is what absorbs one slow video."""

STARTING_POINTS = ("modality", "demand")
"""Caps that say where to start, not what the machine can bear; only the others make a forced number worth a warning."""


def make_plan(hardware: Hardware, workload: Workload, request: Request) -> Plan:
    """Return the decision for every argument ``request`` leaves to us.

    Args:
        hardware: The machine, what-if overrides applied.
        workload: The run.
        request: What is ``auto``, and what others said.
    """
    decisions: list[Decision] = []
    warnings: list[str] = []
    if request.loader_field is not None and request.trains:
        decisions += _decide_loader(hardware, workload, request, warnings)
    if request.preprocessing:
        decisions.append(_decide_preprocessing(hardware, workload, request, warnings))
    return Plan(tuple(decisions), tuple(warnings))


def _tightest(caps: tuple[Cap, ...]) -> Cap:
    return min(caps, key=lambda cap: cap.value)


def _decide_loader(hardware: Hardware, workload: Workload, request: Request, warnings: list[str]) -> list[Decision]:
    blank = Decision(str(request.loader_field), None, request.loader_requested, "per rank", "", "")
    if workload.stage == "ppo":
        because = "PPO's trainer builds its own loader and ignores this number"
        return _with_extras(dataclasses.replace(blank, value=0, binding="stage", because=because), request, None)

    prefetch = request.prefetch_factor or DEFAULT_PREFETCH_FACTOR
    caps = loader_caps(hardware, workload, request, prefetch)
    may_set_prefetch = request.sets_prefetch and request.prefetch_factor is None and not workload.streaming
    if _tightest(caps).name == "shm" and _tightest(caps).value == 0 and may_set_prefetch:
        shallow = loader_caps(hardware, workload, request, 1)  # one batch ahead instead of two may be what fits
        if _tightest(shallow).value > 0:
            prefetch, caps = 1, shallow
    planned = _tightest(caps)
    if planned.name == "shm" and all(cap.value > planned.value for cap in caps if cap.name != "shm"):
        warnings.append(shm_advice(workload, ranks_that_load(hardware, workload, request)))

    chosen = _choose_loader(blank, request, caps, warnings)
    if workload.streaming:
        chosen = _fit_shards(chosen, caps, warnings)
        if request.dispatches_batches and hardware.ranks.world_size > 1:
            warnings.append(
                "Rank 0 reads a streamed dataset for every rank; accelerator_config: {dispatch_batches: false} lets "
                "each rank read its own shards (rows of unequal length fail without it)."
            )
    if may_set_prefetch and prefetch == DEFAULT_PREFETCH_FACTOR:
        prefetch = _deeper_prefetch(hardware, workload, request, chosen)
    return _with_extras(chosen, request, prefetch if may_set_prefetch else None)


def _choose_loader(blank: Decision, request: Request, caps: tuple[Cap, ...], warnings: list[str]) -> Decision:
    """Return the number of whoever comes first: environment, checkpoint, history, plan."""
    planned = _tightest(caps)
    limits = tuple(cap for cap in caps if cap.name not in STARTING_POINTS)
    limit = _tightest(limits)
    own = dataclasses.replace(blank, value=planned.value, binding=planned.name, because=planned.because, caps=caps)
    if request.forced_loader is not None:
        because = f"{PREFIX}DATALOADER_NUM_WORKERS={request.forced_loader}"
        if request.forced_loader > limit.value:
            warnings.append(f"{because} is above the {limit.name} cap of {limit.value} ({limit.because}).")
        return dataclasses.replace(own, value=request.forced_loader, binding="environment", because=because)
    if request.stored_loader is not None:
        because = "the checkpoint was made with this count, and order or state depends on it"
        if request.stored_loader > limit.value:
            warnings.append(
                f"The checkpoint's {request.stored_loader} workers are above the {limit.name} cap of {limit.value} "
                f"here ({limit.because})."
            )
        return dataclasses.replace(own, value=request.stored_loader, binding="checkpoint", because=because)
    if request.learned_loader is not None and request.learned_loader <= limit.value:
        because = "an earlier run of this job settled on it"
        return dataclasses.replace(own, value=request.learned_loader, binding="history", because=because)
    return own


def _fit_shards(chosen: Decision, caps: tuple[Cap, ...], warnings: list[str]) -> Decision:
    """Return ``chosen`` within what a streamed dataset can be read with: 1 worker at least, a shard for each."""
    value = chosen.value or 0
    if value == 0:
        because = "0 workers would read an empty dataset: LLaMA-Factory makes one shard per worker"
        if chosen.binding == "environment":
            warnings.append(f"{chosen.because} is raised to 1: {because}.")
        return dataclasses.replace(chosen, value=1, binding="streaming", because=because)
    shards = next((cap for cap in caps if cap.name == "shards"), None)
    if shards is not None and value > shards.value:
        if chosen.binding == "environment":
            warnings.append(f"{chosen.because} is lowered to {shards.value}: {shards.because}.")
        return dataclasses.replace(chosen, value=shards.value, binding="shards", because=shards.because)
    return chosen


def _deeper_prefetch(hardware: Hardware, workload: Workload, request: Request, chosen: Decision) -> int:
    """Return the prefetch factor that absorbs slow batches, if memory and /dev/shm carry it at the chosen count."""
    if workload.modality is Modality.TEXT:
        return DEFAULT_PREFETCH_FACTOR
    # Without the guard's word for it: a single worker that memory is short for gets no deeper queue.
    deep = loader_caps(hardware, workload, dataclasses.replace(request, guarded=False), DEEP_PREFETCH_FACTOR)
    bears = all(cap.value >= (chosen.value or 0) for cap in deep if cap.name in ("memory", "shm", "files"))
    return DEEP_PREFETCH_FACTOR if bears else DEFAULT_PREFETCH_FACTOR


def _with_extras(chosen: Decision, request: Request, prefetch: int | None) -> list[Decision]:
    """Return ``chosen`` and the loader arguments that hang on it.

    Args:
        prefetch: The prefetch factor wanted; ``None`` to leave it alone.
    """
    decisions = [chosen]
    if chosen.value == 0:
        for name, theirs in ((PREFETCH_FIELD, request.prefetch_factor), (PERSISTENT_FIELD, request.persistent_workers)):
            if theirs:
                because = f"{theirs} does not go with 0 workers"
                off = None if name == PREFETCH_FIELD else False
                decisions.append(Decision(name, off, theirs, "per rank", "no workers", because))
    elif prefetch is not None and prefetch != DEFAULT_PREFETCH_FACTOR:
        deep = prefetch > DEFAULT_PREFETCH_FACTOR
        because = "a deeper queue absorbs slow batches" if deep else "more batches in flight do not fit into /dev/shm"
        decisions.append(
            Decision(PREFETCH_FIELD, prefetch, None, "per rank", "slow batches" if deep else "shm", because)
        )
    return decisions


def _decide_preprocessing(hardware: Hardware, workload: Workload, request: Request, warnings: list[str]) -> Decision:
    blank = Decision(PREPROCESSING_FIELD, None, request.preprocessing_requested, "per node", "", "")
    caps = preprocessing_caps(hardware, workload, request)
    if not request.trains:
        return dataclasses.replace(blank, binding="stage", because="this command does not preprocess a dataset")
    tightest = _tightest(caps)
    if request.forced_preprocessing is not None:
        because = f"{PREFIX}PREPROCESSING_NUM_WORKERS={request.forced_preprocessing}"
        if request.forced_preprocessing > tightest.value and tightest.name != "rows":
            warnings.append(f"{because} is above the {tightest.name} cap of {tightest.value} ({tightest.because}).")
        return dataclasses.replace(
            blank, value=request.forced_preprocessing, binding="environment", because=because, caps=caps
        )
    if request.tokenized:
        return dataclasses.replace(
            blank, binding="stage", because="the dataset at tokenized_path is preprocessed already"
        )
    if workload.streaming:
        return dataclasses.replace(
            blank, binding="streaming", because="a streamed dataset is preprocessed by its readers"
        )
    value = tightest.value if tightest.value > 1 else None
    because = tightest.because if value else f"one process in the trainer itself is best: {tightest.because}"
    return dataclasses.replace(blank, value=value, binding=tightest.name, because=because, caps=caps)
