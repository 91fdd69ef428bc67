"""What Slurm's variables say about this node: CPUs and tasks.

Covers the variables of sbatch(1) and srun(1) and their compressed lists (``16(x2),8``). Does not decide: `cpu` and
`ranks` do.
"""

from __future__ import annotations

import re

from .machine import Machine

_ENTRY = re.compile(r"([0-9]+)(?:\(x([0-9]+)\))?")
# More nodes than any Slurm job has; keeps garbage such as "1(x999999999)" from filling memory.
_MOST_NODES = 1 << 16


def slurm_cpus(machine: Machine) -> tuple[int, str] | None:
    """Return the CPUs this job may use on this node and the variables that say so; ``None`` outside Slurm.

    Per node, not per task: ``SLURM_CPUS_PER_TASK`` counts once for each task on the node. ``SLURM_CPUS_ON_NODE`` is
    the whole node where nodes are handed out whole, so the smaller of the two is what was asked for.
    """
    found: list[tuple[int, str]] = []
    for name in ("SLURM_CPUS_ON_NODE", "SLURM_JOB_CPUS_PER_NODE"):
        on_node = _for_this_node(machine, name)
        if on_node is not None:
            found.append((on_node, f"{name}={machine.environment(name)}"))
            break
    per_task = _for_this_node(machine, "SLURM_CPUS_PER_TASK")
    if per_task is not None:
        tasks = slurm_tasks(machine)
        source = f"SLURM_CPUS_PER_TASK={per_task}"
        if tasks is not None and tasks[0] > 1:
            source += f" for each of {tasks[0]} tasks, {tasks[1]}"
        found.append((per_task * (tasks[0] if tasks is not None else 1), source))
    return min(found, default=None, key=lambda pair: pair[0])


def slurm_tasks(machine: Machine) -> tuple[int, str] | None:
    """Return the tasks of this job step on this node and the variable that says so; ``None`` outside Slurm."""
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE"):
        tasks = _for_this_node(machine, name)
        if tasks is not None:
            return tasks, f"{name}={machine.environment(name)}"
    return None


def ranks_come_from_srun(machine: Machine) -> bool:
    """Tell whether each task of the step is one rank: ``WORLD_SIZE`` counts exactly the step's tasks."""
    tasks = machine.environment("SLURM_STEP_NUM_TASKS") or machine.environment("SLURM_NTASKS")
    return (
        machine.environment("SLURM_PROCID") is not None
        and tasks is not None
        and (tasks == machine.environment("WORLD_SIZE"))
    )


def _for_this_node(machine: Machine, name: str) -> int | None:
    """Return this node's entry of a list such as ``16(x2),8``, above 0; garbage is a problem."""
    text = machine.environment(name)
    if text is None:
        return None
    counts: list[int] = []
    for part in text.split(","):
        entry = _ENTRY.fullmatch(part.strip())
        times = int(entry[2] or 1) if entry else 0
        if entry is None or not 0 < times <= _MOST_NODES or int(entry[1]) < 1:
            machine.misread(name, text)
            return None
        counts += [int(entry[1])] * times
    node = machine.environment("SLURM_NODEID") or "0"
    place = int(node) if node.isdecimal() else 0
    # A single entry holds for every node; so does the last one for a node number beyond the list (another step's).
    return counts[min(place, len(counts) - 1)]
