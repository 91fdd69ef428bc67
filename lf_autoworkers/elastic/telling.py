"""What a person reads: one warning line per event, and the message of a batch that cannot be made."""

from __future__ import annotations

import signal

from lf_autoworkers.elastic.api import BatchUnsent, LoaderEvent, WorkerHung, WorkerLost
from lf_autoworkers.elastic.messages import Verdict
from lf_autoworkers.elastic.state import DEATHS_PER_BATCH
from lf_autoworkers.units import format_size

#: Dataset indices shown of one batch, characters.
INDICES_SHOWN = 200


def describe(event: LoaderEvent) -> str | None:
    """Return the one warning line of an event, None if it is no news for a person."""
    match event:
        case WorkerLost():
            counter = ""
            if event.oom_kills_before is not None and event.oom_kills_after is not None:
                counter = f", oom_kill {event.oom_kills_before} -> {event.oom_kills_after}"
            redone = f"{event.redone_batches} batch{'' if event.redone_batches == 1 else 'es'}"
            return (
                f"dataloader worker {event.worker_id} (pid {event.pid}) {_death(event)}{counter}: {redone} "
                f"done again, order kept; workers left: {event.live_workers}"
            )
        case WorkerHung():
            step = "killed, the batch is done again" if event.killed else "left alone, the batch was done again once"
            return (
                f"dataloader worker {event.worker_id} (pid {event.pid}) has been on one batch for "
                f"{event.elapsed_s:.0f} s (dataset indices {event.indices}): {step}"
            )
        case BatchUnsent():
            return f"dataloader worker pid {event.pid} could not send batch {event.batch} ({event.reason}): done again"
        case _:
            return None


def _death(event: WorkerLost) -> str:
    if event.signal is not None:
        try:
            name = signal.Signals(event.signal).name
        except ValueError:
            name = f"signal {event.signal}"
        return f"was killed by {'us with ' if event.by_us else ''}{name}"
    return "died unseen" if event.exit_code is None else f"exited with code {event.exit_code}"


def never_ready(in_a_row: int) -> str:
    """Return the line that says why no more workers are started."""
    if in_a_row:
        return f"{in_a_row} dataloader workers in a row ended before they were ready; no more are started in this epoch"
    return "a dataloader worker did not get ready in time; no more are started in this epoch"


def indices_text(index: object) -> str:
    """Return the dataset indices of a batch for a message, cut where they are many."""
    text = repr(index)
    return text if len(text) <= INDICES_SHOWN else f"{text[:INDICES_SHOWN]}..."


def why_given_up(
    batch: int, indices: str, verdict: Verdict, largest_batch_bytes: int | None, limit_bytes: int | None
) -> str:
    """Return the message that ends the run: which rows, what happened, what to do."""
    where = f"batch {batch} (dataset indices {indices})"
    if verdict is Verdict.POISON:
        return (
            f"{where} killed its dataloader worker {DEATHS_PER_BATCH} times; look at these rows, "
            "or load them with 0 workers to see the crash itself."
        )
    size = f"; the largest batch so far took {format_size(largest_batch_bytes)}" if largest_batch_bytes else ""
    limit = f" of {format_size(limit_bytes)}" if limit_bytes is not None else ""
    return (
        f"{where} does not fit: the kernel's OOM killer took the only working dataloader worker {DEATHS_PER_BATCH} "
        f"times on it, under a memory limit{limit}{size}. Give the job more memory, or make these rows or the batch "
        "smaller."
    )
