"""The machines under ``tests/machines`` x three typical runs, planned, for the golden pages and the docs' table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lf_autoworkers.hardware import Hardware, Machine, detect_hardware, expected_ranks
from lf_autoworkers.plan import Plan, Request, make_plan
from lf_autoworkers.units import GIB, MIB
from lf_autoworkers.workload import Modality, Workload

MACHINES = Path(__file__).parent.parent / "machines"
NAMES = tuple(sorted(path.name for path in MACHINES.iterdir() if path.is_dir()))

TEXT = Workload(
    stage="sft",
    modality=Modality.TEXT,
    modality_source="no dataset has a media column",
    streaming=False,
    train_rows=52_000,
    train_rows_exact=True,
    rows_source="counted in alpaca.json",
    train_batch_size=4,
    eval_batch_size=4,
    evaluates=False,
    batch_bytes=256 * 1024,
    batch_source="64 rows looked at of 52000",
    decode_bytes=1 * MIB,
    batch_cpu_s=0.004,
    files_per_batch=3,
    preprocessing_row_bytes=1 * MIB,
    checkpoint_bytes=1 * GIB,
    largest_shard_bytes=1 * GIB,
)
IMAGE = dataclasses.replace(
    TEXT,
    modality=Modality.IMAGE,
    modality_source="dataset photos, column images",
    train_rows=20_000,
    rows_source="counted in photos.json",
    batch_bytes=57 * MIB,
    batch_source="20000 headers read of 20000, largest 2.1 MP",
    decode_bytes=96 * MIB,
    batch_cpu_s=0.18,
    files_per_batch=5,
    preprocessing_row_bytes=64 * MIB,
)
VIDEO = dataclasses.replace(
    IMAGE,
    modality=Modality.VIDEO,
    modality_source="dataset clips, column videos",
    train_rows=4_000,
    rows_source="counted in clips.json",
    train_batch_size=2,
    batch_bytes=196 * MIB,
    batch_source="512 headers read of 4000, largest 128 frames",
    decode_bytes=420 * MIB,
    batch_cpu_s=2.4,
    preprocessing_row_bytes=300 * MIB,
)
RUNS = {"text": TEXT, "image": IMAGE, "video": VIDEO}
BOTH_AUTO = Request("dataloader_num_workers", "auto", preprocessing=True, preprocessing_requested="auto")


def hardware_of(name: str) -> Hardware:
    """Return the facts of a saved machine, ranks counted as the launcher will."""
    machine = Machine.load(MACHINES / name)
    hardware = detect_hardware(machine)
    return dataclasses.replace(hardware, ranks=expected_ranks(machine, hardware.gpus))


def plan_of(name: str, run: str) -> tuple[Plan, Hardware, Workload]:
    """Return the plan of a run on a saved machine, with what it was made from."""
    hardware = hardware_of(name)
    return make_plan(hardware, RUNS[run], BOTH_AUTO), hardware, RUNS[run]


def table() -> str:
    """Return the numbers of every machine and run as a Markdown table: loader per rank / preprocessing per node."""
    rows = ["| Machine | Ranks | Text | Image | Video |", "| --- | --- | --- | --- | --- |"]
    for name in NAMES:
        cells = []
        for run in RUNS:
            plan, hardware, _ = plan_of(name, run)
            loader, mapping = plan.decision("dataloader_num_workers"), plan.decision("preprocessing_num_workers")
            assert loader is not None and mapping is not None
            mapped = "none" if mapping.value is None else mapping.value
            cells.append(f"{loader.value} ({loader.binding}) / {mapped}")
        rows.append(f"| {name} | {hardware.ranks.local_world_size} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
