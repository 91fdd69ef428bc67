"""Every constant of the memory guard, in one place, each with its source.

`guard` reads them; the table in docs/guard.md is tested against them. Nothing else in steering/ holds a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from lf_autoworkers.units import GIB, MIB


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
    """The guard's constants. Times in seconds, sizes in bytes, fractions 0 to 1.

    "Measured" means: a child growing in a 512 MiB memory cgroup, sampled every 20 ms, until the kernel killed it. At
    95 % used it had 0.31 s left at 100 MB/s and 0.08 s at 500 MB/s, at 88 % about 0.6 s and 0.15 s, while memory PSI
    stayed at 0.00; one reading of all files cost 0.13 ms.
    """

    # Lines: 80/88/94 % used are where Dask pauses (80 %) and just under where Ray (95 %) and Dask (95 %) kill.
    caution: Line = field(default_factory=lambda: Line(0.20, 3.0, 2 * GIB, 0.04))
    shrink: Line = field(default_factory=lambda: Line(0.12, 2.0, 1 * GIB, 0.02))
    emergency: Line = field(default_factory=lambda: Line(0.06, 1.0, 512 * MIB, 0.01))
    # memory.oom.group=1 (Kubernetes' default on cgroup v2 since 1.28): the first kernel kill ends everything.
    oom_group_shift_fraction: float = 0.05

    # Time to exhaustion = headroom / growth. A retiring worker needs seconds, a SIGKILL 0.05 s (measured).
    caution_exhaustion_s: float = 60.0
    shrink_exhaustion_s: float = 10.0
    emergency_exhaustion_s: float = 1.5
    # Growth far from any limit is a start-up or a model being loaded, not a leak.
    exhaustion_near_fraction: float = 0.25
    growth_short_s: float = 2.0
    growth_long_s: float = 20.0
    growth_span_s: float = 0.25

    # PSI only confirms (measured: 0.00 until the kill without swap); 10 % and 5 % as a tenth of systemd-oomd's 60 %.
    psi_some_percent: float = 10.0
    psi_full_percent: float = 5.0

    # A second sample before acting (earlyoom checks twice), unless less than this is left.
    confirm_s: float = 0.05
    unconfirmed_exhaustion_s: float = 0.15
    # After an act: wait for the exit (earlyoom #121 killed two), then for the kernel's books, then a pause.
    settle_s: float = 0.3
    cooldown_s: float = 2.0
    retire_timeout_s: float = 15.0
    kill_timeout_s: float = 2.0
    # A level is left only after this long below it.
    calm_s: float = 3.0

    # Coming back: the first worker within 60 s, then one every 30 s; each further incident doubles the wait.
    regrow_first_s: float = 45.0
    regrow_next_s: float = 30.0
    regrow_longest_s: float = 720.0
    incident_memory_s: float = 600.0

    # With one worker left and the pressure unchanged: say so and stop (Dask's endless pause: distributed #3761).
    floor_timeout_s: float = 60.0
    floor_kills: int = 3

    # Start-up: one worker a tick while room is ample, else the next one when those running have shown their cost.
    settled_batches: int = 2
    unknown_worker_bytes: int = 1 * GIB
    # What a worker typically holds: an average over about this many readings (1 / weight).
    typical_weight: float = 0.02

    # A leak: the least of the last samples above the most of the first ones by this much (joblib restarts at 300 MB).
    leak_samples: int = 3
    leak_sample_s: float = 0.5
    leak_bytes: int = 300 * MIB
    leak_batches: float = 4.0
    recycle_pause_s: float = 5.0

    # /dev/shm: Docker's default is 64 MiB. Each worker may write one more batch at any moment.
    shm_used_fraction: float = 0.8

    # How often to look: often enough that a burst of this many bytes a second cannot use up a quarter of the headroom.
    burst_bytes_per_s: int = 1 * GIB
    slowest_poll_s: float = 1.0
    fast_poll_s: float = 0.1
    fastest_poll_s: float = 0.02
    worker_poll_s: float = 0.5
