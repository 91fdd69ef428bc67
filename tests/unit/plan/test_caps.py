"""For each cap a machine (or a run) where it alone binds; changing that one fact changes number and reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from lf_autoworkers.hardware import CpuConstraint, CpuFacts, Hardware, ShmFacts
from lf_autoworkers.plan import Request, make_plan
from lf_autoworkers.units import GIB
from lf_autoworkers.workload import Workload
from tests.golden.cases import BOTH_AUTO, IMAGE, RUNS, TEXT, VIDEO, hardware_of

Change = Callable[[Hardware, Workload, Request], tuple[Hardware, Workload, Request]]


def with_hardware(**fields: object) -> Change:
    return lambda hardware, workload, request: (dataclasses.replace(hardware, **fields), workload, request)  # type: ignore[arg-type]


def with_workload(**fields: object) -> Change:
    return lambda hardware, workload, request: (hardware, dataclasses.replace(workload, **fields), request)  # type: ignore[arg-type]


def more_cpus(hardware: Hardware, workload: Workload, request: Request) -> tuple[Hardware, Workload, Request]:
    cpu = CpuFacts(96, "test", (CpuConstraint("cgroup quota", 48.0, "cpu.max"),))
    return dataclasses.replace(hardware, cpu=cpu), workload, request


def more_memory(hardware: Hardware, workload: Workload, request: Request) -> tuple[Hardware, Workload, Request]:
    return hardware.with_memory_limit(512 * GIB, "test"), workload, request


def more_files(hardware: Hardware, workload: Workload, request: Request) -> tuple[Hardware, Workload, Request]:
    return dataclasses.replace(hardware, limits=dataclasses.replace(hardware.limits, nofile=1 << 20)), workload, request


def more_pids(hardware: Hardware, workload: Workload, request: Request) -> tuple[Hardware, Workload, Request]:
    return dataclasses.replace(hardware, limits=dataclasses.replace(hardware.limits, pids=None)), workload, request


FEW_ROWS = dataclasses.replace(IMAGE, train_rows=8)
FEW_SHARDS = dataclasses.replace(IMAGE, train_rows=3, streaming=True)
SLOW = dataclasses.replace(VIDEO, batch_cpu_s=50.0, train_rows=500_000)


@pytest.mark.parametrize(
    ("cap", "machine", "workload", "value", "change"),
    [
        ("cpu", "container_4of96", VIDEO, 3, more_cpus),
        ("modality", "cgroup_v1_24gib", IMAGE, 4, more_cpus),
        ("demand", "h100x8_192core", IMAGE, 5, with_workload(batch_cpu_s=0.4)),
        ("memory", "memory_6gib_64core", VIDEO, 2, more_memory),
        ("shm", "docker_shm_64mb", IMAGE, 1, with_hardware(shm=ShmFacts(64 * GIB, 64 * GIB, "/dev/shm"))),
        ("files", "nofile_256", VIDEO, 6, more_files),
        ("pids", "pids_limited", IMAGE, 0, more_pids),
        ("batches", "h100_mig_half", FEW_ROWS, 2, with_workload(train_rows=10_000)),
        ("shards", "h100_mig_half", FEW_SHARDS, 3, with_workload(train_rows=10_000)),
        ("start method", "windows_gpu1", IMAGE, 0, with_hardware(start_method="fork", system="Linux")),
        ("ceiling", "taskset_1of64", SLOW, 64, with_workload(batch_cpu_s=0.5)),
    ],
)
def test_each_cap_binds_somewhere_alone(cap: str, machine: str, workload: Workload, value: int, change: Change) -> None:
    hardware, request = hardware_of(machine), BOTH_AUTO
    if cap == "ceiling":
        hardware = hardware.with_cpus(200, "test").with_memory_limit(4096 * GIB, "test").with_shm(1024 * GIB, "test")
    decision = make_plan(hardware, workload, request).decisions[0]
    assert (decision.binding, decision.value) == (cap, value)
    assert [c.name for c in decision.caps if c.value <= value] == [cap]
    after = make_plan(*change(hardware, workload, request)).decisions[0]
    assert after.binding != cap or after.because != decision.because
    assert after.value is not None
    assert after.value > value or cap == "ceiling"  # nothing lifts that one


@pytest.mark.parametrize(
    ("cap", "machine", "run", "value"),
    [
        ("cpu", "cgroup_v1_24gib", "image", 5),
        ("memory", "memory_6gib_64core", "video", 7),
        ("rows", "h100x8_192core", "text", 52),
        ("ceiling", "h100x8_192core", "image", 16),
        ("pids", "pids_limited", "image", None),
        ("start method", "windows_gpu1", "image", None),
    ],
)
def test_each_preprocessing_cap_binds_somewhere(cap: str, machine: str, run: str, value: int | None) -> None:
    decision = make_plan(hardware_of(machine), RUNS[run], BOTH_AUTO).decision("preprocessing_num_workers")
    assert decision is not None
    assert (decision.binding, decision.value) == (cap, value)


def test_without_the_elastic_loader_a_tiny_shm_means_0_workers_and_the_docker_flag_is_named() -> None:
    request = dataclasses.replace(BOTH_AUTO, elastic=False)
    plan = make_plan(hardware_of("docker_shm_64mb"), IMAGE, request)
    assert (plan.decisions[0].binding, plan.decisions[0].value) == ("shm", 0)
    assert any("--shm-size=1g" in warning for warning in plan.warnings)


def test_one_batch_ahead_instead_of_two_when_that_is_what_fits_into_shm() -> None:
    request = dataclasses.replace(BOTH_AUTO, elastic=False)
    hardware = hardware_of("docker_shm_64mb").with_shm(256 * 1024**2, "test")
    plan = make_plan(hardware, IMAGE, request)
    prefetch = plan.decision("dataloader_prefetch_factor")
    assert prefetch is not None
    assert (plan.decisions[0].value, prefetch.value) == (1, 1)


def test_a_forced_number_above_a_cap_is_taken_with_a_warning_that_names_the_cap() -> None:
    request = dataclasses.replace(BOTH_AUTO, forced_loader=8)
    plan = make_plan(hardware_of("container_4of96"), VIDEO, request)
    assert plan.decisions[0].value == 8
    assert any("above the cpu cap of 3" in warning for warning in plan.warnings)


def test_forced_streaming_shards_are_fitted_to_the_rows() -> None:
    request = dataclasses.replace(BOTH_AUTO, forced_loader=8)
    plan = make_plan(hardware_of("h100_mig_half"), FEW_SHARDS, request)
    assert plan.decisions[0].value == 3
    assert any("is lowered to 3" in warning for warning in plan.warnings)
    none = make_plan(hardware_of("h100_mig_half"), FEW_SHARDS, dataclasses.replace(BOTH_AUTO, forced_loader=0))
    assert none.decisions[0].value == 1
    assert any("is raised to 1" in warning for warning in none.warnings)


def test_dispatched_streaming_gives_rank_0_the_node_and_says_so() -> None:
    streamed = dataclasses.replace(VIDEO, streaming=True, train_rows=None)
    hardware = hardware_of("a100x8_8ranks")
    shared = make_plan(hardware, streamed, BOTH_AUTO)
    alone = make_plan(hardware, streamed, dataclasses.replace(BOTH_AUTO, dispatches_batches=True))
    cpu = {plan.decisions[0].caps[0].value for plan in (shared, alone)}
    assert max(cpu) > 7 * min(cpu)
    assert any("dispatch_batches" in warning for warning in alone.warnings)
    assert not shared.warnings


def test_where_memory_carries_no_worker_the_guard_may_start_one() -> None:
    hardware, dry = hardware_of("ram8_gpu1"), dataclasses.replace(BOTH_AUTO, guarded=False)
    loader, *others = make_plan(hardware, VIDEO, BOTH_AUTO).decisions
    assert (loader.value, loader.binding, loader.has_room) == (1, "memory", False)
    assert "under the memory guard's eye" in loader.because
    assert [decision.field for decision in others] == ["preprocessing_num_workers"], "no deeper queue"
    for request in (dry, dataclasses.replace(BOTH_AUTO, elastic=False)):
        nothing = make_plan(hardware, VIDEO, request).decisions[0]
        assert (nothing.value, nothing.has_room) == (0, True)
    forced = make_plan(hardware, VIDEO, dataclasses.replace(BOTH_AUTO, forced_loader=1)).decisions[0]
    assert forced.has_room, "a number of the user's own is not doubted"


def test_offloaded_optimizer_state_takes_memory_from_workers() -> None:
    hardware = hardware_of("ram8_gpu1").with_memory_limit(64 * GIB, "test")
    plain = make_plan(hardware, dataclasses.replace(IMAGE, checkpoint_bytes=4 * GIB), BOTH_AUTO)
    offloaded = dataclasses.replace(IMAGE, checkpoint_bytes=4 * GIB, offloads_optimizer=True)
    memory = [
        next(cap.value for cap in plan.decisions[0].caps if cap.name == "memory")
        for plan in (plain, make_plan(hardware, offloaded, BOTH_AUTO))
    ]
    assert memory[1] < memory[0] // 2


def test_text_needs_one_worker_at_most_two() -> None:
    assert make_plan(hardware_of("h100x8_192core"), TEXT, BOTH_AUTO).decisions[0].value in (1, 2)
