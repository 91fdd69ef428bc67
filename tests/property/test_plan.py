"""What must hold for every machine and every run, whatever the numbers."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from lf_autoworkers.hardware import CpuConstraint, CpuFacts, Hardware
from lf_autoworkers.plan import Decision, Plan, Request, make_plan
from lf_autoworkers.plan.explain import explain_json, explain_text, log_line
from lf_autoworkers.workload import Workload
from tests.property.strategies import counts, hardwares, requests, workloads

many = settings(max_examples=300, deadline=None)
LOADER, PREPROCESSING = "dataloader_num_workers", "preprocessing_num_workers"


def loader(plan: Plan) -> Decision:
    found = plan.decision(LOADER)
    assert found is not None
    return found


def number(plan: Plan, name: str) -> int:
    """Return the value of a decision, a single process in the trainer counted as 1."""
    found = plan.decision(name)
    assert found is not None
    return 1 if found.value is None else int(found.value)


@many
@given(hardwares(), workloads(), requests())
def test_no_cap_is_exceeded_and_the_reason_is_one_of_them(
    hardware: Hardware, workload: Workload, request: Request
) -> None:
    plan = make_plan(hardware, workload, request)
    for decision in (loader(plan), plan.decision(PREPROCESSING)):
        assert decision is not None
        if decision.binding == "stage" or not decision.caps:
            continue
        tightest = min(cap.value for cap in decision.caps)
        value = 1 if decision.value is None else decision.value
        if decision.binding == "streaming":
            assert (value, tightest) == (1, 0)
        else:
            assert value == tightest or (value == 1 and decision.value is None)
            assert decision.binding in {cap.name for cap in decision.caps if cap.value == tightest}


@many
@given(hardwares(), workloads(), requests())
def test_the_same_facts_give_the_same_plan_in_words_too(
    hardware: Hardware, workload: Workload, request: Request
) -> None:
    plan = make_plan(hardware, workload, request)
    assert plan == make_plan(hardware, workload, request)
    assert all("\n" not in log_line(decision) for decision in plan.decisions)
    page = explain_text(plan, hardware, workload)
    assert all(decision.because in page for decision in plan.decisions)
    assert explain_json(plan, hardware, workload)["yaml"] == {d.field: d.value for d in plan.decisions}


@many
@given(hardwares(), workloads(), requests(), st.floats(0.1, 512))
def test_more_cpus_never_give_fewer(hardware: Hardware, workload: Workload, request: Request, more: float) -> None:
    def with_cpus(cpus: float) -> Plan:
        cpu = CpuFacts(None, "test", (CpuConstraint("affinity", cpus, "test"),))
        return make_plan(dataclasses.replace(hardware, cpu=cpu), workload, request)

    few, many_cpus = with_cpus(1.5), with_cpus(1.5 + more)
    assert number(many_cpus, LOADER) >= number(few, LOADER)
    assert number(many_cpus, PREPROCESSING) >= number(few, PREPROCESSING)


@many
@given(hardwares(), workloads(), requests(), st.integers(0, 1 << 40))
def test_more_memory_never_gives_fewer(hardware: Hardware, workload: Workload, request: Request, more: int) -> None:
    memory = hardware.memory
    if memory.total_bytes is None or memory.available_bytes is None:
        return
    levels = tuple(
        dataclasses.replace(level, limit_bytes=None if level.limit_bytes is None else level.limit_bytes + more)
        for level in memory.levels
    )
    roomier = dataclasses.replace(
        memory,
        total_bytes=memory.total_bytes + more,
        available_bytes=memory.available_bytes + more,
        levels=levels,
    )
    before = make_plan(hardware, workload, request)
    after = make_plan(dataclasses.replace(hardware, memory=roomier), workload, request)
    assert number(after, LOADER) >= number(before, LOADER)
    assert number(after, PREPROCESSING) >= number(before, PREPROCESSING)


@many
@given(hardwares(), workloads(), requests(), st.integers(2, 16))
def test_more_ranks_never_give_more_per_rank(
    hardware: Hardware, workload: Workload, request: Request, times: int
) -> None:
    alone = hardware.with_ranks(1, "test")
    together = hardware.with_ranks(times, "test")
    one, several = make_plan(alone, workload, request), make_plan(together, workload, request)
    assert number(several, LOADER) <= number(one, LOADER)


@many
@given(hardwares(), workloads(), requests(), st.integers(1, 15))
def test_every_rank_of_a_node_gets_the_same_preprocessing(
    hardware: Hardware, workload: Workload, request: Request, rank: int
) -> None:
    """Free memory and a few processes more are what differs from rank to rank, and from day to day."""
    ranks = dataclasses.replace(hardware.ranks, local_rank=rank)
    memory = dataclasses.replace(
        hardware.memory,
        available_bytes=12345 if hardware.memory.available_bytes is not None else None,
        levels=tuple(dataclasses.replace(level, used_bytes=0) for level in hardware.memory.levels),
    )
    elsewhere = dataclasses.replace(hardware, ranks=ranks, memory=memory)
    one, other = make_plan(hardware, workload, request), make_plan(elsewhere, workload, request)
    assert one.decision(PREPROCESSING) == other.decision(PREPROCESSING)
    if workload.streaming:
        assert loader(one).value == loader(other).value


@many
@given(hardwares(), workloads(), requests(), counts, counts, counts)
def test_the_environment_beats_the_checkpoint_beats_the_plan(
    hardware: Hardware,
    workload: Workload,
    request: Request,
    forced: int | None,
    stored: int | None,
    learned: int | None,
) -> None:
    asked = dataclasses.replace(request, forced_loader=forced, stored_loader=stored, learned_loader=learned)
    decision = loader(make_plan(hardware, workload, asked))
    wanted = forced if forced is not None else stored
    if wanted is not None and not workload.streaming:
        assert decision.value == wanted
        assert decision.binding == ("environment" if forced is not None else "checkpoint")
    if workload.streaming:
        assert decision.value is not None and decision.value >= 1


@many
@given(hardwares(), workloads(), requests())
def test_0_workers_take_prefetch_and_persistent_along(hardware: Hardware, workload: Workload, request: Request) -> None:
    plan = make_plan(hardware, workload, request)
    prefetch = plan.decision("dataloader_prefetch_factor")
    persistent = plan.decision("dataloader_persistent_workers")
    if loader(plan).value == 0:
        assert (prefetch is None) == (request.prefetch_factor is None)
        assert prefetch is None or prefetch.value is None
        assert persistent is None or persistent.value is False
        assert not request.persistent_workers or persistent is not None
    elif request.prefetch_factor is not None:
        assert prefetch is None
