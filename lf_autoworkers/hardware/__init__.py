"""What this process may really use: one machine in, frozen facts out."""

from __future__ import annotations

from .detect import detect_hardware
from .facts import (
    CpuConstraint,
    CpuFacts,
    Gpu,
    GpuFacts,
    Hardware,
    LimitFacts,
    MemoryFacts,
    MemoryLevel,
    RankFacts,
    ShmFacts,
)
from .limits import raise_nofile_limit
from .machine import Machine
from .ranks import expected_ranks
from .save import save_machine

__all__ = [
    "CpuConstraint",
    "CpuFacts",
    "Gpu",
    "GpuFacts",
    "Hardware",
    "LimitFacts",
    "Machine",
    "MemoryFacts",
    "MemoryLevel",
    "RankFacts",
    "ShmFacts",
    "detect_hardware",
    "expected_ranks",
    "raise_nofile_limit",
    "save_machine",
]
