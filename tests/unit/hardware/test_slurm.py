from __future__ import annotations

from pathlib import Path

import pytest

from lf_autoworkers.hardware.cpu import read_cpu
from lf_autoworkers.hardware.facts import CpuConstraint
from lf_autoworkers.hardware.slurm import slurm_cpus, slurm_tasks

from .fake import fake_machine


@pytest.mark.parametrize(
    ("environment", "cpus"),
    [
        ({"SLURM_CPUS_PER_TASK": "8"}, (8, "SLURM_CPUS_PER_TASK=8")),
        ({"SLURM_CPUS_ON_NODE": "16"}, (16, "SLURM_CPUS_ON_NODE=16")),
        ({"SLURM_JOB_CPUS_PER_NODE": "16(x2)"}, (16, "SLURM_JOB_CPUS_PER_NODE=16(x2)")),
        ({"SLURM_JOB_CPUS_PER_NODE": "72(x2),36", "SLURM_NODEID": "2"}, (36, "SLURM_JOB_CPUS_PER_NODE=72(x2),36")),
        ({"SLURM_JOB_CPUS_PER_NODE": "72(x2),36", "SLURM_NODEID": "1"}, (72, "SLURM_JOB_CPUS_PER_NODE=72(x2),36")),
        # A batch script of four tasks may use what all four asked for.
        (
            {"SLURM_CPUS_PER_TASK": "8", "SLURM_CPUS_ON_NODE": "32", "SLURM_TASKS_PER_NODE": "4"},
            (32, "SLURM_CPUS_ON_NODE=32"),
        ),
        # Whole nodes are handed out, but one task of 8 CPUs was asked for.
        (
            {"SLURM_CPUS_PER_TASK": "8", "SLURM_CPUS_ON_NODE": "96", "SLURM_TASKS_PER_NODE": "1(x4)"},
            (8, "SLURM_CPUS_PER_TASK=8"),
        ),
        (
            {"SLURM_CPUS_PER_TASK": "8", "SLURM_CPUS_ON_NODE": "96", "SLURM_TASKS_PER_NODE": "4(x2)"},
            (32, "SLURM_CPUS_PER_TASK=8 for each of 4 tasks, SLURM_TASKS_PER_NODE=4(x2)"),
        ),
        ({}, None),
    ],
)
def test_cpus_are_those_of_the_node(tmp_path: Path, environment: dict[str, str], cpus: tuple[int, str] | None) -> None:
    assert slurm_cpus(fake_machine(tmp_path, environment=environment)) == cpus


@pytest.mark.parametrize("text", ["", "many", "16(x)", "16(x0)", "1(x999999999)", "0", "-4", "8,,8"])
def test_garbage_is_a_problem(tmp_path: Path, text: str) -> None:
    machine = fake_machine(tmp_path, environment={"SLURM_CPUS_ON_NODE": text})

    assert slurm_cpus(machine) is None
    assert machine.problems == [f"SLURM_CPUS_ON_NODE holds {text!r}, which could not be understood."]


def test_the_steps_tasks_come_before_the_jobs(tmp_path: Path) -> None:
    environment = {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_TASKS_PER_NODE": "8"}

    assert slurm_tasks(fake_machine(tmp_path, environment=environment)) == (2, "SLURM_STEP_TASKS_PER_NODE=2")


RANKS = {
    "SLURM_CPUS_PER_TASK": "8",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4",
    "WORLD_SIZE": "4",
}


def test_cpus_bound_to_each_of_sruns_ranks_add_up(tmp_path: Path) -> None:
    machine = fake_machine(tmp_path, cpu_count=128, affinity=frozenset(range(8, 16)), environment=RANKS)

    assert read_cpu(machine).tightest == CpuConstraint(
        "affinity",
        32.0,
        "sched_getaffinity: CPUs 8-15, in each of 4 tasks (SLURM_STEP_TASKS_PER_NODE=4)",
    )


def test_ranks_started_by_torchrun_in_one_task_do_not(tmp_path: Path) -> None:
    torchrun = {**RANKS, "SLURM_NTASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1", "LOCAL_WORLD_SIZE": "4"}
    machine = fake_machine(tmp_path, cpu_count=128, affinity=frozenset(range(8, 16)), environment=torchrun)

    assert read_cpu(machine).usable_cpus == 8.0
