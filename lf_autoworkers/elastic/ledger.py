"""What the state machine knows of one batch and of one worker. Changed by `state.py` alone."""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

from lf_autoworkers.elastic.api import WorkerPhase


class Place(enum.Enum):
    """Where a batch is that was pulled and not delivered."""

    TODO = "to do"
    HELD = "held"
    READY = "ready"


@dataclass(slots=True)
class Entry:
    """A batch: where it is, and what went wrong with it until now.

    ``oom_kills_alone`` counts the kernel's kills of a worker that had the memory to itself. ``in_process`` batches can
    be made by no worker.
    """

    place: Place = Place.TODO
    crashes: int = 0
    oom_kills: int = 0
    oom_kills_alone: int = 0
    hangs: int = 0
    unsent: int = 0
    in_process: bool = False


@dataclass(slots=True)
class Worker:
    """A worker: ``held`` are (generation, batch), the one in its hands first."""

    serial: int
    worker_id: int
    phase: WorkerPhase = WorkerPhase.STARTING
    told_to_stop: bool = False
    held: deque[tuple[int, int]] = field(default_factory=deque)
