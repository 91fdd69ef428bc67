"""Every limit on the number of ``Dataset.map`` processes of a node.

Covers ``preprocessing_num_workers``. The number is a function of totals and limits alone, never of what happens to be
free, so that every rank and every day gives the same one. Only one rank of a node maps while the others wait, so the
CPUs are not divided by ranks.
"""

from __future__ import annotations

import math

from lf_autoworkers.hardware.facts import Hardware
from lf_autoworkers.plan.caps import BASE_PIDS, PIDS_PER_WORKER, cpu_share
from lf_autoworkers.plan.decision import Cap, Request
from lf_autoworkers.plan.memory import map_memory_cap
from lf_autoworkers.workload.facts import Modality, Workload

ROWS_PER_PROCESS = {Modality.TEXT: 1000, Modality.AUDIO: 32, Modality.IMAGE: 32, Modality.VIDEO: 4}
"""Fewer rows are done by the time another process has started: 2,000 text rows gain 1 s from a second process and
nothing from a fourth, 400 images gain from every process the CPUs can carry (benchmarks/README.md)."""

MAX_PROCESSES = {Modality.TEXT: 64, Modality.AUDIO: 16, Modality.IMAGE: 16, Modality.VIDEO: 16}
"""Users lost runs to 128 and more ("one of the subprocesses has abruptly died"), with media to 32 and more."""


def _rows(workload: Workload) -> Cap | None:
    if workload.train_rows is None:
        return None
    least = ROWS_PER_PROCESS[workload.modality]
    about = "" if workload.train_rows_exact else "about "
    because = f"{about}{workload.train_rows} rows at {least} or more per process"
    return Cap("rows", max(1, workload.train_rows // least), because, workload.rows_source)


def _pids(hardware: Hardware) -> Cap | None:
    if hardware.limits.pids is None:
        return None
    # The count of running processes moves by the second; only its order of magnitude may decide.
    steady = 2 ** int(math.log2(hardware.limits.pids)) if hardware.limits.pids > 0 else 0
    because = (
        f"about {steady} processes and threads left - {BASE_PIDS} of the trainer's / {PIDS_PER_WORKER} per process"
    )
    return Cap("pids", max(1, (steady - BASE_PIDS) // PIDS_PER_WORKER), because, hardware.limits.pids_source)


def _start_method(hardware: Hardware) -> Cap | None:
    if hardware.start_method == "fork":
        return None
    because = (
        f"processes would be started by {hardware.start_method}, which must pickle the tokenizer and imports all anew"
    )
    return Cap("start method", 1, because, f"multiprocessing on {hardware.system}")


def preprocessing_caps(hardware: Hardware, workload: Workload, request: Request) -> tuple[Cap, ...]:
    """Return every cap on the node's ``Dataset.map`` processes, each 1 or more."""
    share, because = cpu_share(hardware, 1)
    memory = map_memory_cap(hardware, workload, request)
    ceiling = MAX_PROCESSES[workload.modality]
    caps = (
        Cap("cpu", max(1, math.floor(share)), because, hardware.cpu.tightest.source),
        Cap(memory.name, max(1, memory.value), memory.because, memory.source),
        _rows(workload),
        _pids(hardware),
        _start_method(hardware),
        Cap("ceiling", ceiling, f"never more than {ceiling} for {workload.modality}", "lf-autoworkers"),
    )
    return tuple(cap for cap in caps if cap is not None)
