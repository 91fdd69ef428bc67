"""The words between the loader's state machine and whoever drives it: events go in, instructions come out.

Plain values without behaviour. ``serial`` names a worker process for good (ids and pids are used again), ``index``
counts batches from 0 within one generation, and a generation is one pass over the sampler.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias


class Outcome(enum.Enum):
    """What came of a batch that a worker was given."""

    SENT = "sent"  # here, whole, readable; a worker's exception is a result too
    UNSENT = "unsent"  # made, but no shared memory or file descriptor to send it in
    UNSENDABLE = "unsendable"  # made, but it cannot cross a process boundary at all


class Cause(enum.Enum):
    """Who is to blame for a death."""

    CRASH = "crash"  # any signal or exit that nobody explains; counts against the batch in hand
    OOM = "oom"  # the kernel's OOM killer; counts only if no other worker could have been the reason
    OURS = "ours"  # we killed it; counts against nobody


class Verdict(enum.Enum):
    """Why a batch is given up."""

    POISON = "poison"
    TOO_BIG = "too big"


@dataclass(frozen=True, slots=True)
class EpochBegun:
    generation: int


@dataclass(frozen=True, slots=True)
class Pulled:
    """The sampler gave one more index batch; ``in_process`` if it cannot be sent to a worker."""

    in_process: bool = False


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The sampler has no more."""


@dataclass(frozen=True, slots=True)
class Requested:
    """The consumer wants the next batch; with ``may_start`` false no worker can be started right now."""

    may_start: bool = True


@dataclass(frozen=True, slots=True)
class StartFailed:
    """A `StartWorker` was not carried out: vetoed (no blame), or the system refused."""

    serial: int
    vetoed: bool


@dataclass(frozen=True, slots=True)
class SaidHello:
    serial: int


@dataclass(frozen=True, slots=True)
class Arrived:
    serial: int
    generation: int
    index: int
    outcome: Outcome
    wall_s: float


@dataclass(frozen=True, slots=True)
class InitFailed:
    """``worker_init_fn`` raised; the worker leaves and never says hello."""

    serial: int


@dataclass(frozen=True, slots=True)
class Died:
    serial: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class HelloOverdue:
    serial: int


@dataclass(frozen=True, slots=True)
class BatchOverdue:
    """The worker has been on the batch in its hands for longer than the hang time-out."""

    serial: int


@dataclass(frozen=True, slots=True)
class TargetSet:
    workers: int
    first: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RetireAsked:
    serial: int


@dataclass(frozen=True, slots=True)
class FeedSet:
    on: bool


@dataclass(frozen=True, slots=True)
class FactorSet:
    batches_per_worker: int


Event: TypeAlias = (
    EpochBegun
    | Pulled
    | Exhausted
    | Requested
    | StartFailed
    | SaidHello
    | Arrived
    | InitFailed
    | Died
    | HelloOverdue
    | BatchOverdue
    | TargetSet
    | RetireAsked
    | FeedSet
    | FactorSet
)


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a process that calls itself ``worker_id``; only ever asked for in answer to `Requested`."""

    serial: int
    worker_id: int


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send the index batch; ``inline`` asks for the result through the pipe, without shared memory."""

    serial: int
    index: int
    inline: bool


@dataclass(frozen=True, slots=True)
class Store:
    """Keep what has just arrived until it is delivered (anything that arrives without this is dropped)."""

    index: int


@dataclass(frozen=True, slots=True)
class StopWorker:
    """Tell a worker that holds nothing to leave."""

    serial: int


@dataclass(frozen=True, slots=True)
class KillWorker:
    serial: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand the stored batch to the consumer."""

    index: int


@dataclass(frozen=True, slots=True)
class LoadInProcess:
    """Make the batch on the consumer's thread and hand it over."""

    index: int


@dataclass(frozen=True, slots=True)
class RaiseInitError:
    """Raise what ``worker_init_fn`` raised, in place of this batch, as PyTorch does."""

    index: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Everything was delivered."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Keep, in this batch's place, the error that ends the run."""

    index: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class ReportLoss:
    serial: int
    redone: int


@dataclass(frozen=True, slots=True)
class ReportRetired:
    serial: int


@dataclass(frozen=True, slots=True)
class ReportHang:
    """``index`` is None if the batch is of an older generation, which nobody waits for."""

    serial: int
    index: int | None
    killed: bool


@dataclass(frozen=True, slots=True)
class ReportFrozen:
    """No more workers are started in this generation: too many never said hello."""

    never_said_hello: int


Instruction: TypeAlias = (
    StartWorker
    | Dispatch
    | Store
    | StopWorker
    | KillWorker
    | Deliver
    | LoadInProcess
    | RaiseInitError
    | Finish
    | GiveUp
    | ReportLoss
    | ReportRetired
    | ReportHang
    | ReportFrozen
)
