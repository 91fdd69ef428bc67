"""The plan as frozen objects: caps, decisions, and what was asked for.

Covers the shape only. `caps` computes each limit, `planner` puts them together, `explain` words them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

LOADER_FIELD = "dataloader_num_workers"
V1_LOADER_FIELD = "batching_workers"
PREPROCESSING_FIELD = "preprocessing_num_workers"
PREFETCH_FIELD = "dataloader_prefetch_factor"
PERSISTENT_FIELD = "dataloader_persistent_workers"


@dataclass(frozen=True, slots=True)
class Cap:
    """One limit on a number.

    Attributes:
        name: ``cpu``, ``memory``, ``shm`` ...: what the log line calls it.
        value: The largest number it allows, 0 or more.
        because: The arithmetic in one phrase, with the facts in it.
        source: Where the deciding fact came from (a file, a variable, a call).
        room: Whether there is room for ``value``; False where it is 1 although the arithmetic gave none.
    """

    name: str
    value: int
    because: str
    source: str
    room: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    """One argument LLaMA-Factory will be given.

    Attributes:
        field: The argument's name.
        value: What it is given; ``None`` means the argument's own "not set" (for preprocessing: one process, the
            trainer itself).
        requested: What the user wrote (``auto``), or ``None`` for an argument left out.
        scope: ``per rank`` or ``per node``.
        binding: The name of the cap that decided, or who did: ``environment``, ``checkpoint``, ``history``,
            ``stage``, ``fallback``.
        because: The deciding reason in one phrase.
        caps: Every cap that was computed, whether it bound or not.
    """

    field: str
    value: int | bool | None
    requested: Any
    scope: Literal["per rank", "per node"]
    binding: str
    because: str
    caps: tuple[Cap, ...] = ()

    @property
    def has_room(self) -> bool:
        """Whether the cap that decided leaves room for the number."""
        return all(cap.room for cap in self.caps if cap.name == self.binding)


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be decided, and what others already decided.

    Attributes:
        loader_field: The loader's count that is ``auto``; ``None`` if it is not.
        loader_requested: The word the user wrote there.
        preprocessing: Whether ``preprocessing_num_workers`` is ``auto``.
        preprocessing_requested: The word the user wrote there.
        trains: Whether this command trains (``export`` and ``chat`` carry the argument and never use it).
        prefetch_factor: The user's own ``dataloader_prefetch_factor``; ``None`` if left alone.
        persistent_workers: The user's own ``dataloader_persistent_workers``; ``None`` if left alone.
        sets_prefetch: Whether this command has a ``dataloader_prefetch_factor`` to set.
        dispatches_batches: Whether rank 0 alone reads a streamed dataset for every rank (accelerate's default).
        elastic: Whether the elastic loader is to be used (it forks its workers on Linux whatever the default).
        guarded: Whether the memory guard acts while the run lasts.
        forced_loader: The environment's number for the loader; ``None`` if there is none.
        forced_preprocessing: The environment's number for preprocessing.
        stored_loader: The count a checkpoint to be resumed was made with, where order or state depends on it.
        learned_loader: The count an earlier run of the same job settled on.
        reserve_bytes: Memory to leave alone; ``None`` for the plan's own reserve.
        tokenized: The preprocessed dataset is read from disk, so nothing is preprocessed.
    """

    loader_field: str | None
    loader_requested: Any = None
    preprocessing: bool = False
    preprocessing_requested: Any = None
    trains: bool = True
    prefetch_factor: int | None = None
    persistent_workers: bool | None = None
    sets_prefetch: bool = True
    dispatches_batches: bool = False
    elastic: bool = True
    guarded: bool = True
    forced_loader: int | None = None
    forced_preprocessing: int | None = None
    stored_loader: int | None = None
    learned_loader: int | None = None
    reserve_bytes: int | None = None
    tokenized: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Every decision of one run, and what the user should be told beside them."""

    decisions: tuple[Decision, ...]
    warnings: tuple[str, ...] = field(default=())

    def decision(self, name: str) -> Decision | None:
        """Return the decision about the argument ``name``, or ``None``."""
        return next((decision for decision in self.decisions if decision.field == name), None)
