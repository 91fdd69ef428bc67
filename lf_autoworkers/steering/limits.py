"""Every constant of the memory guard, in one place, each with its source.

`guard` and `danger` read them; the table in docs/guard.md is generated from them (`limits_table`). Nothing else in
steering/ holds a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any

from lf_autoworkers.units import GIB, MIB, format_size


class PressureLevel(IntEnum):
    """How close the nearest memory limit is; the higher, the worse."""

    NORMAL = 0
    CAUTION = 1
    SHRINK = 2
    EMERGENCY = 3


@dataclass(frozen=True, slots=True)
class Line:
    """Where a pressure level begins, as bytes still free below a limit.

    The share of the limit rules small boxes; on large ones a percentage would be far too much to leave idle, so it
    stops at what workers can take before the guard has acted: a few worker peaks, and never less than `floor_bytes` or
    `floor_fraction` of the limit.

    Attributes:
        fraction: Share of the limit, 0 to 1; the upper bound.
        workers: Peaks of one worker.
        floor_bytes: Bytes.
        floor_fraction: Share of the limit, 0 to 1.
    """

    fraction: float
    workers: float
    floor_bytes: int
    floor_fraction: float

    def bytes_for(self, limit_bytes: int, worker_bytes: int, shift_fraction: float) -> int:
        """Return the line for a limit, with `shift_fraction` of the limit added where the kernel kills the group."""
        near = max(self.workers * worker_bytes, self.floor_bytes, self.floor_fraction * limit_bytes)
        return int(min(self.fraction * limit_bytes, near) + shift_fraction * limit_bytes)


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """The guard's constants. Times in seconds, sizes in bytes, fractions 0 to 1; each with its reason and source.

    "Measured" means: a child growing in a 512 MiB memory cgroup, sampled every 20 ms, until the kernel killed it. At
    95 % used it had 0.31 s left at 100 MB/s and 0.08 s at 500 MB/s, at 88 % about 0.6 s and 0.15 s, while memory PSI
    stayed at 0.00; one reading of all files cost 0.13 ms.
    """

    caution: Line = field(
        default=Line(0.20, 3.0, 2 * GIB, 0.04),
        metadata={"why": "no worker is started below it; 80 % used is where Dask pauses its workers"},
    )
    shrink: Line = field(
        default=Line(0.12, 2.0, 1 * GIB, 0.02),
        metadata={"why": "workers are shed below it; measured: 0.6 s left at 100 MB/s in a box of 512 MiB"},
    )
    emergency: Line = field(
        default=Line(0.06, 1.0, 512 * MIB, 0.01),
        metadata={"why": "the largest worker is killed below it; just before Ray and Dask kill (95 %)"},
    )
    oom_group_shift_fraction: float = field(
        default=0.05,
        metadata={
            "why": "share of the limit by which all lines move where memory.oom.group=1 lets one kill end everything"
        },
    )
    caution_exhaustion_s: float = field(default=60.0, metadata={"why": "time left (headroom / growth) that is CAUTION"})
    shrink_exhaustion_s: float = field(
        default=10.0, metadata={"why": "time left that is SHRINK: a worker leaves after its batch, in seconds"}
    )
    emergency_exhaustion_s: float = field(
        default=1.5, metadata={"why": "time left that is EMERGENCY: a SIGKILL frees memory in 0.05 s (measured)"}
    )
    exhaustion_near_fraction: float = field(
        default=0.25,
        metadata={
            "why": "time left counts with less than this of the limit free (CAUTION: twice it); else growth is a start"
        },
    )
    growth_short_s: float = field(default=2.0, metadata={"why": "short window of the growth rate"})
    growth_long_s: float = field(default=20.0, metadata={"why": "long window of the growth rate"})
    growth_span_s: float = field(
        default=0.25, metadata={"why": "window of growth at this very moment, for EMERGENCY alone"}
    )
    psi_some_percent: float = field(
        default=10.0,
        metadata={
            "why": "PSI memory some avg10 that makes SHRINK of CAUTION; it only confirms: measured, 0 until the kill"
        },
    )
    psi_full_percent: float = field(default=5.0, metadata={"why": "the same for full avg10"})
    confirm_s: float = field(
        default=0.05, metadata={"why": "an act needs a second reading this much later (earlyoom checks twice)"}
    )
    unconfirmed_exhaustion_s: float = field(default=0.15, metadata={"why": "unless less time than this is left"})
    settle_s: float = field(
        default=0.3, metadata={"why": "after a worker's exit, before its memory is in the kernel's books"}
    )
    cooldown_s: float = field(
        default=2.0, metadata={"why": "after an act, before the next (earlyoom #121 killed two for one)"}
    )
    retire_timeout_s: float = field(
        default=15.0, metadata={"why": "a retiring worker is waited for no longer than this"}
    )
    kill_timeout_s: float = field(default=2.0, metadata={"why": "a killed one no longer than this"})
    calm_s: float = field(default=3.0, metadata={"why": "a level is left after this long below it"})
    regrow_first_s: float = field(
        default=45.0, metadata={"why": "calm before the first worker comes back, doubled by each attempt that failed"}
    )
    regrow_next_s: float = field(default=30.0, metadata={"why": "before each next one"})
    regrow_longest_s: float = field(default=720.0, metadata={"why": "longest wait after failed attempts"})
    incident_memory_s: float = field(
        default=600.0,
        metadata={
            "why": "the count at which memory ran short stays out of reach this long, doubled if growing back caused it"
        },
    )
    floor_timeout_s: float = field(
        default=60.0,
        metadata={
            "why": "with one worker left and no way out: say so and stop (Dask's pause without end: distributed #3761)"
        },
    )
    floor_kills: int = field(default=3, metadata={"why": "kills of the last worker before that"})
    settled_batches: int = field(default=2, metadata={"why": "batches after which a worker has shown what it costs"})
    unmeasured_factor: float = field(
        default=3.0,
        metadata={"why": "before any worker has shown its cost, each is taken for this many times the plan's"},
    )
    unmeasured_bytes: int = field(default=512 * MIB, metadata={"why": "and for no less than this"})
    young_factor: float = field(
        default=1.5,
        metadata={"why": "the dearest worker so far is taken for this much more while few batches are made"},
    )
    young_batches: int = field(default=10, metadata={"why": "few are fewer than this, over all workers"})
    unknown_worker_bytes: int = field(
        default=1 * GIB, metadata={"why": "a worker's peak where neither plan nor measurement knows it"}
    )
    typical_weight: float = field(
        default=0.02, metadata={"why": "weight of one reading in what a worker typically holds"}
    )
    leak_samples: int = field(
        default=3, metadata={"why": "a leak: the least of this many newest samples above the most of the first ones"}
    )
    leak_sample_s: float = field(default=0.5, metadata={"why": "time between those samples"})
    leak_bytes: int = field(
        default=300 * MIB, metadata={"why": "by at least this (joblib restarts its workers at 300 MB)"}
    )
    leak_batches: float = field(default=4.0, metadata={"why": "and by at least this many batches"})
    pressed_leak_bytes: int = field(
        default=64 * MIB, metadata={"why": "under pressure this much is a leak: its worker is replaced, not shed"}
    )
    recycle_pause_s: float = field(default=5.0, metadata={"why": "between two replacements of leaking workers"})
    shm_used_fraction: float = field(
        default=0.8, metadata={"why": "of /dev/shm, for loaders whose batches are there (not the elastic one)"}
    )
    burst_bytes_per_s: int = field(
        default=1 * GIB,
        metadata={"why": "between two readings, growth at this rate takes a quarter of the headroom at most"},
    )
    slowest_poll_s: float = field(default=1.0, metadata={"why": "slowest"})
    fast_poll_s: float = field(default=0.1, metadata={"why": "slowest during the first ramp and above NORMAL"})
    fastest_poll_s: float = field(default=0.02, metadata={"why": "fastest"})


def limits_table() -> str:
    """Return the constants as GitHub Markdown (what ``docs/guard.md`` holds)."""
    limits = GuardLimits()
    rows = ["| Constant | Value | Meaning |", "| --- | --- | --- |"]
    rows += [
        f"| `{one.name}` | {_shown(one.name, getattr(limits, one.name))} | {one.metadata['why']} |"
        for one in fields(limits)
    ]
    return "\n".join(rows) + "\n"


def _shown(name: str, value: Any) -> str:
    if isinstance(value, Line):
        peaks = "1 worker peak" if value.workers == 1 else f"{value.workers:g} worker peaks"
        near = f"{peaks}, {format_size(value.floor_bytes)} or {value.floor_fraction:.0%} of the limit"
        return f"{value.fraction:.0%} of the limit free; no more than the largest of {near}"
    if name.endswith("_bytes"):
        return format_size(value)
    if name.endswith("_bytes_per_s"):
        return f"{format_size(value)}/s"
    if name.endswith("_fraction"):
        return f"{value:.0%}"
    return f"{value:g}" + (" s" if name.endswith("_s") else " %" if name.endswith("_percent") else "")
