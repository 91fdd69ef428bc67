"""What must hold for the guard whatever the machine does: arbitrary readings, and boxes that obey arithmetic."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lf_autoworkers.hardware.facts import MemoryLevel, ShmFacts
from lf_autoworkers.steering.danger import Surroundings
from lf_autoworkers.steering.guard import ActKind, Guard
from lf_autoworkers.steering.limits import GuardLimits, PressureLevel
from lf_autoworkers.steering.readings import LoaderView, Reading, WorkerReading
from lf_autoworkers.units import GIB, MIB
from tests.unit.steering.box import Box

LIMITS = GuardLimits()
GROWING = {ActKind.START, ActKind.RESTORE}
SHEDDING = {ActKind.RETIRE, ActKind.KILL}

sizes = st.integers(0, 8 * GIB)
levels = st.builds(MemoryLevel, st.none() | st.integers(64 * MIB, 8 * GIB), st.none() | sizes, st.sampled_from("ab"))
ticks = st.tuples(
    st.floats(0.02, 5.0),
    st.lists(levels, max_size=2, unique_by=lambda level: level.source),
    st.none() | st.builds(ShmFacts, st.just(64 * MIB), st.integers(0, 64 * MIB), st.just("/dev/shm")),
    st.lists(st.none() | st.integers(0, 2 * GIB), min_size=8, max_size=8),
    st.none() | st.floats(0, 100),
    st.booleans(),
)


@given(st.lists(ticks, min_size=1, max_size=60), st.integers(1, 8), st.booleans())
@settings(max_examples=300, deadline=None)
def test_whatever_it_sees_it_keeps_its_word(
    history: list[tuple[float, list[MemoryLevel], ShmFacts | None, list[int | None], float | None, bool]],
    wanted: int,
    oom_group: bool,
) -> None:
    guard = Guard(Surroundings(oom_group=oom_group))
    now, target, prefetch, live, pids = 0.0, 1, 2, [1], 1
    shed = False
    last_retire_s = float("-inf")
    for passed, seen, shm, private, psi, obeys in history:
        now += passed
        workers = tuple(WorkerReading(pid, size, size, 5) for pid, size in zip(live, private, strict=False))
        view = LoaderView(wanted, target, tuple(live), prefetch, 2, 4 * MIB, steps=int(now), warm=now >= 1)
        reading = Reading(now, tuple(seen), shm, psi, psi, trainer_bytes=private[0], workers=workers)
        verdict = guard.step(reading, view)
        act = verdict.act

        assert 1 <= act.target <= wanted
        assert act.prefetch in (1, 2)
        assert LIMITS.fastest_poll_s <= verdict.poll_s <= LIMITS.slowest_poll_s
        if act.kind in GROWING:
            assert verdict.level is PressureLevel.NORMAL
            assert verdict.danger.level is PressureLevel.NORMAL
            assert act.target <= target + 1
            assert reading.seen or not shed, "blind, it does not grow back"
        if act.kind in SHEDDING:
            assert verdict.danger.level >= PressureLevel.SHRINK
            assert act.pid is None or act.pid in live
            shed = True
        if act.kind is ActKind.RETIRE:
            assert now - last_retire_s >= LIMITS.cooldown_s
            last_retire_s = now
        if not reading.seen and shm is None:
            assert act.kind not in SHEDDING

        target, prefetch = act.target, act.prefetch
        if act.kind in SHEDDING | {ActKind.RECYCLE} and act.pid is not None and obeys:
            live.remove(act.pid)
        if obeys:
            while len(live) < target:
                pids += 1
                live.append(pids)


@given(
    limit=st.integers(1 * GIB, 64 * GIB),
    trainer_share=st.floats(0.1, 0.5),
    worker=st.integers(16 * MIB, 1 * GIB),
    wanted=st.integers(1, 16),
    prior=st.none() | st.integers(16 * MIB, 2 * GIB),
)
@settings(max_examples=150, deadline=None)
def test_a_box_that_one_worker_fits_is_never_overrun(
    limit: int, trainer_share: float, worker: int, wanted: int, prior: int | None
) -> None:
    worker = min(worker, int((0.8 - trainer_share) * limit))
    box = Box(
        limit_bytes=limit,
        trainer_bytes=int(trainer_share * limit),
        worker_bytes=worker,
        wanted=wanted,
        guard=Guard(Surroundings(worker_bytes=prior)),
    )
    for _ in box.run(120):
        assert box.target <= wanted
    assert box.oom_kills == 0
    assert ActKind.GIVE_UP not in box.kinds


@given(
    rate=st.integers(10, 200),
    limit=st.integers(2 * GIB, 8 * GIB),
    wanted=st.integers(1, 4),
    retire_s=st.floats(0.05, 1.0),
)
@settings(max_examples=60, deadline=None)
def test_leaks_up_to_200_mb_a_second_never_reach_the_kernel(
    rate: int, limit: int, wanted: int, retire_s: float
) -> None:
    box = Box(limit_bytes=limit, trainer_bytes=600 * MIB, worker_bytes=128 * MIB, wanted=wanted, retire_s=retire_s)
    box.leak_bytes_per_s = rate * 1e6 / wanted
    for _ in box.run(180):
        pass
    assert box.oom_kills == 0


@given(taken=st.floats(0.2, 0.7), wanted=st.integers(2, 8))
@settings(max_examples=60, deadline=None)
def test_after_a_neighbour_has_left_workers_come_back(taken: float, wanted: int) -> None:
    box = Box(limit_bytes=6 * GIB, wanted=wanted)
    box.last(30)
    full = box.target
    box.neighbour_bytes = int(taken * 6 * GIB)
    box.last(60)
    low = box.target
    box.neighbour_bytes = 0
    box.last(60)
    assert box.target >= min(low + 1, full - 1)
    box.last(60 + 30 * wanted + 2 * LIMITS.incident_memory_s)
    assert box.target == full
