"""What a finished run teaches the next one of the same job: the loader count that memory left it.

Covers when a count is kept and when it is taken back. A count is kept only if the guard had to shed workers and ended
below what it started with; a later run that starts from it and sheds nothing tries one more the next time, until the
plan's own number is reached and nothing is kept any more. `history` holds the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lf_autoworkers.adapter.job import job_of
from lf_autoworkers.adapter.resolve import Resolution
from lf_autoworkers.history import default_folder, forget, remember
from lf_autoworkers.plan.decision import LOADER_FIELD


def conclude(resolution: Resolution, named: Mapping[str, Any], *, ended_on: int, shed: bool) -> None:
    """Keep what the run has learned, if anything.

    Args:
        resolution: What the run started with.
        named: Its arguments.
        ended_on: Workers wanted when training ended.
        shed: Whether the guard had to take workers away.

    Raises:
        OSError: The folder cannot be written.
        RuntimeError: There is no home folder.
    """
    decision = resolution.plan.decision(LOADER_FIELD)
    if resolution.settings.history_off or decision is None or not isinstance(decision.value, int):
        return
    folder = resolution.settings.history or default_folder(os.environ)
    job = job_of(named, resolution.hardware)
    if shed and ended_on < decision.value:
        remember(folder, job, max(1, ended_on))
    elif decision.binding == "history" and not shed:
        planned = min(cap.value for cap in decision.caps)
        if decision.value + 1 < planned:
            remember(folder, job, decision.value + 1)
        else:
            forget(folder, job)
