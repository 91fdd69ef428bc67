"""Hypothesis strategies for facts: any machine, any run, any request."""

from __future__ import annotations

from hypothesis import strategies as st

from lf_autoworkers.hardware import (
    CpuConstraint,
    CpuFacts,
    Gpu,
    GpuFacts,
    Hardware,
    LimitFacts,
    MemoryFacts,
    MemoryLevel,
    RankFacts,
    ShmFacts,
)
from lf_autoworkers.plan import Request
from lf_autoworkers.units import GIB, MIB
from lf_autoworkers.workload import Modality, Workload

sizes = st.integers(min_value=0, max_value=2048 * GIB)
optional_sizes = st.none() | sizes
cpus = st.floats(min_value=0.1, max_value=512, allow_nan=False)


@st.composite
def levels(draw: st.DrawFn) -> MemoryLevel:
    return MemoryLevel(draw(optional_sizes), draw(optional_sizes), "/sys/fs/cgroup/memory.max")


@st.composite
def hardwares(draw: st.DrawFn, system: str = "Linux") -> Hardware:
    ranks = draw(st.integers(1, 16))
    return Hardware(
        system=system,
        start_method="fork",
        cpu=CpuFacts(
            draw(st.none() | st.integers(1, 512)),
            "/sys/devices/system/cpu/online",
            tuple(CpuConstraint("cgroup quota", value, "cpu.max") for value in draw(st.lists(cpus, max_size=3))),
        ),
        memory=MemoryFacts(
            draw(optional_sizes), draw(optional_sizes), "/proc/meminfo", tuple(draw(st.lists(levels(), max_size=3)))
        ),
        shm=ShmFacts(draw(optional_sizes), draw(optional_sizes), "/dev/shm"),
        limits=LimitFacts(
            draw(st.none() | st.integers(0, 1 << 20)),
            "RLIMIT_NOFILE",
            draw(st.none() | st.integers(0, 1 << 20)),
            "pids.max",
        ),
        gpus=GpuFacts(tuple(Gpu(i, "GPU", 80 * GIB) for i in range(draw(st.integers(0, 8)))), "NVML"),
        ranks=RankFacts(ranks, "LOCAL_WORLD_SIZE", 0, ranks * draw(st.integers(1, 4))),
    )


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    return Workload(
        stage=draw(st.sampled_from(["sft", "pt", "dpo", "kto", "rm"])),
        modality=draw(st.sampled_from(list(Modality))),
        modality_source="dataset",
        streaming=draw(st.booleans()),
        train_rows=draw(st.none() | st.integers(0, 10_000_000)),
        train_rows_exact=draw(st.booleans()),
        rows_source="counted",
        train_batch_size=draw(st.integers(1, 64)),
        eval_batch_size=draw(st.integers(1, 64)),
        evaluates=draw(st.booleans()),
        batch_bytes=draw(st.integers(1, 2 * GIB)),
        batch_source="headers",
        decode_bytes=draw(st.integers(0, 4 * GIB)),
        batch_cpu_s=draw(st.floats(0.0001, 60)),
        files_per_batch=draw(st.integers(1, 60)),
        preprocessing_row_bytes=draw(st.integers(0, 512 * MIB)),
        checkpoint_bytes=draw(optional_sizes),
        trains_all_weights=draw(st.booleans()),
        offloads_optimizer=draw(st.booleans()),
    )


counts = st.none() | st.integers(0, 64)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    return Request(
        loader_field="dataloader_num_workers",
        loader_requested="auto",
        preprocessing=True,
        preprocessing_requested="auto",
        prefetch_factor=draw(st.none() | st.integers(1, 8)),
        persistent_workers=draw(st.none() | st.booleans()),
        dispatches_batches=draw(st.booleans()),
        elastic=draw(st.booleans()),
        guarded=draw(st.booleans()),
        reserve_bytes=draw(st.none() | st.integers(0, 8 * GIB)),
        tokenized=draw(st.booleans()),
    )
