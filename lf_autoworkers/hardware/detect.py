"""All facts of one machine, put together.

Covers the order of reading and the promise that nothing a machine holds ends in an exception. Does not read anything
itself, and imports neither torch nor LLaMA-Factory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .cpu import read_cpu
from .facts import CpuFacts, GpuFacts, Hardware, LimitFacts, MemoryFacts, RankFacts, ShmFacts
from .gpu import read_gpus
from .limits import read_limits, read_shm
from .machine import Machine
from .memory import read_memory
from .ranks import read_ranks

_UNREADABLE = "could not be read"
T = TypeVar("T")


def detect_hardware(machine: Machine) -> Hardware:
    """Return everything the plan needs to know of ``machine``.

    Never raises for what the machine holds: a reading that fails is ``None`` in the facts and a sentence in
    `Hardware.problems`.
    """

    def attempt(what: str, read: Callable[[Machine], T], unknown: T) -> T:
        try:
            return read(machine)
        except Exception as error:  # an unforeseen file must not end a training run; the sentence makes it visible
            machine.problem(f"The {what} of this machine could not be told: {type(error).__name__}: {error}.")
            return unknown

    return Hardware(
        system=machine.probes.system,
        start_method=machine.probes.start_method,
        cpu=attempt("CPUs", read_cpu, CpuFacts(machine.probes.cpu_count, "os.cpu_count()")),
        memory=attempt("memory", read_memory, MemoryFacts(None, None, _UNREADABLE)),
        shm=attempt("shared memory", read_shm, ShmFacts(None, None, _UNREADABLE)),
        limits=attempt("limits", read_limits, LimitFacts(None, _UNREADABLE, None, _UNREADABLE)),
        gpus=attempt("GPUs", read_gpus, GpuFacts((), _UNREADABLE)),
        ranks=attempt("ranks", read_ranks, RankFacts(1, "one process")),
        problems=tuple(machine.problems),
    )
