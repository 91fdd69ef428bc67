"""A recorded journal as input of the policy: what the guard saw in a real run, seen again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lf_autoworkers.hardware.facts import MemoryLevel, ShmFacts
from lf_autoworkers.journal import read_journal
from lf_autoworkers.steering.danger import Surroundings
from lf_autoworkers.steering.guard import Guard, Verdict
from lf_autoworkers.steering.readings import LoaderView, Reading, WorkerReading


def replay(path: Path) -> Iterator[tuple[Verdict, Mapping[str, Any]]]:
    """Yield what the guard of today says to each recorded reading, beside the record."""
    guard = Guard()
    for event in read_journal(path):
        if event["event"] == "guard":
            guard = Guard(Surroundings(**event.get("surroundings", {})))
        elif event["event"] == "reading":
            yield guard.step(*_recorded(event)), event


def _recorded(event: Mapping[str, Any]) -> tuple[Reading, LoaderView]:
    shm = event["shm"]
    reading = Reading(
        at_s=event["at_s"],
        levels=tuple(MemoryLevel(limit, used, source) for source, limit, used in event["levels"]),
        shm=None if shm is None else ShmFacts(shm[0], shm[1], "/dev/shm"),
        psi_some_percent=event["psi"][0],
        psi_full_percent=event["psi"][1],
        oom_kills=event["oom_kills"],
        limit_hits=event["limit_hits"],
        trainer_bytes=event["trainer"][0],
        trainer_peak_bytes=event["trainer"][1],
        workers=tuple(WorkerReading(*worker) for worker in event["workers"]),
    )
    view = LoaderView(
        wanted=event["wanted"],
        target=event["target"],
        live=tuple(event["live"]),
        prefetch=event["prefetch"],
        wanted_prefetch=event["wanted_prefetch"],
        batch_bytes=event["batch_bytes"],
        steps=event["step"],
        warm=event["warm"],
        elastic=event["elastic"],
    )
    return reading, view
