"""From what the state machine reports to the events that others hear."""

from __future__ import annotations

import time
from typing import TypeAlias

from lf_autoworkers.elastic import messages as m
from lf_autoworkers.elastic.api import LoaderEvent, WorkerHung, WorkerLost, WorkerRetired
from lf_autoworkers.elastic.process import WorkerProcess

Report: TypeAlias = m.ReportLoss | m.ReportRetired | m.ReportHang | m.ReportFrozen


def event_of(
    report: m.ReportLoss | m.ReportRetired | m.ReportHang, process: WorkerProcess, indices: str, live_workers: int
) -> LoaderEvent:
    """Return the event of a report about ``process``.

    Args:
        report: What happened to it.
        process: The worker.
        indices: The dataset indices of the batch in its hands, for a hang.
        live_workers: Workers beside it.
    """
    match report:
        case m.ReportRetired():
            return WorkerRetired(process.pid, process.worker_id)
        case m.ReportHang(_, _, killed):
            elapsed_s = time.monotonic() - (process.busy_since or time.monotonic())
            return WorkerHung(process.pid, process.worker_id, indices, elapsed_s, killed)
        case m.ReportLoss(_, redone):
            death = process.death
            return WorkerLost(
                pid=process.pid,
                worker_id=process.worker_id,
                signal=death.signal if death else None,
                exit_code=death.exit_code if death else None,
                by_us=process.by_us,
                oom_killed=death.oom_killed if death else None,
                oom_kills_before=death.oom_kills_before if death else None,
                oom_kills_after=death.oom_kills_after if death else None,
                redone_batches=redone,
                live_workers=live_workers,
                uss_bytes=process.uss_bytes,
            )
