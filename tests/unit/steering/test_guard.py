"""The policy in a simulated box: ramp, shedding, coming back, leaks, the floor."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from lf_autoworkers.hardware.facts import MemoryLevel, ShmFacts
from lf_autoworkers.steering.danger import Surroundings
from lf_autoworkers.steering.guard import ActKind, Guard
from lf_autoworkers.steering.limits import GuardLimits, PressureLevel
from lf_autoworkers.steering.readings import LoaderView, Reading
from lf_autoworkers.units import GIB, MIB

from .box import Box


def test_the_ramp_on_an_empty_machine_takes_a_second_or_two() -> None:
    box = Box(limit_bytes=64 * GIB, wanted=8)
    for _ in box.run(2.0):
        pass
    assert box.target == 8
    assert box.kinds == [ActKind.START] * 7


def test_the_ramp_stops_at_what_fits_and_nothing_is_killed() -> None:
    box = Box(limit_bytes=int(2.5 * GIB), trainer_bytes=int(1.2 * GIB), wanted=8)
    box.last(60)
    assert 2 <= box.target <= 4
    assert set(box.kinds) == {ActKind.START}
    assert box.oom_kills == 0


def test_the_second_worker_waits_for_the_first_step_where_room_is_scarce() -> None:
    box = Box(limit_bytes=int(2.5 * GIB), trainer_bytes=int(1.2 * GIB))
    box.last(0.9)
    assert box.target == 1


@pytest.mark.parametrize(("free", "fits"), [(400 * MIB, False), (900 * MIB, True)])
def test_a_worker_the_plan_found_no_room_for_waits_once_the_kernel_has_killed_it(free: int, fits: bool) -> None:
    def reading(kills: int) -> Reading:
        level = MemoryLevel(2 * GIB, 2 * GIB - free, "memory.max")
        return Reading(float(kills), (level,), oom_kills=kills, trainer_bytes=300 * MIB)

    alone = LoaderView(1, 1, (), 2, 2, 8 * MIB, warm=False)
    doubted = Surroundings(worker_bytes=GIB, first_bytes=128 * MIB)
    guard = Guard(doubted)
    assert guard.may_start(reading(0), alone)
    assert guard.step(reading(0), alone).shortage is None
    assert guard.may_start(reading(1), alone) is fits
    assert (guard.step(reading(1), alone).shortage is None) is fits
    assert guard.may_start(reading(1), alone) is fits

    assert Guard(replace(doubted, oom_group=True)).may_start(reading(0), alone) is fits
    planned = Guard(replace(doubted, first_bytes=None))
    planned.step(reading(0), alone)
    planned.step(reading(1), alone)
    assert planned.may_start(reading(1), alone)


def test_a_neighbour_takes_memory_and_gives_it_back() -> None:
    box = Box(limit_bytes=4 * GIB, wanted=6)
    box.last(30)
    assert box.target == 6
    box.neighbour_bytes = int(1.2 * GIB)
    box.last(30)
    low = box.target
    assert low < 6
    assert box.oom_kills == 0
    box.neighbour_bytes = 0
    eased = box.now
    box.last(60)
    assert box.target == low + 1
    assert next(t for t, act in box.acts if act.kind is ActKind.START and t > eased) - eased <= 60
    box.last(240)
    assert box.target == 5, "the count at the incident stays out of reach for a while"
    box.last(GuardLimits().incident_memory_s)
    assert box.target == 6


@pytest.mark.parametrize("leak_mb_per_s", [50, 100, 200])
def test_leaking_workers_are_replaced_before_the_kernel_kills(leak_mb_per_s: int) -> None:
    box = Box(limit_bytes=2 * GIB, trainer_bytes=600 * MIB, worker_bytes=128 * MIB, wanted=1)
    box.leak_bytes_per_s = leak_mb_per_s * 1e6
    box.last(120)
    assert box.oom_kills == 0
    assert ActKind.RECYCLE in box.kinds
    assert box.target == 1


def test_the_next_act_waits_until_the_worker_is_gone() -> None:
    box = Box(limit_bytes=4 * GIB, wanted=6, retire_s=8.0)
    box.last(30)
    box.neighbour_bytes = int(1.15 * GIB)
    start = box.now
    for _ in box.run(20):
        pass
    retires = [t for t, act in box.acts if act.kind is ActKind.RETIRE and t > start]
    assert all(later - sooner >= box.retire_s for sooner, later in itertools.pairwise(retires))


def test_an_emergency_does_not_wait_for_a_worker_that_is_leaving() -> None:
    box = Box(limit_bytes=4 * GIB, wanted=6, retire_s=1e9)
    box.last(30)
    box.neighbour_bytes = int(1.2 * GIB)
    box.last(5)
    box.neighbour_bytes = int(1.45 * GIB)
    box.last(1)
    assert ActKind.KILL in box.kinds
    assert box.oom_kills == 0


def test_at_one_worker_it_says_so_once_and_stops() -> None:
    box = Box(limit_bytes=4 * GIB, wanted=1)
    box.last(10)
    box.neighbour_bytes = 4 * GIB - box.used_bytes - 300 * MIB
    box.last(600)
    assert box.kinds.count(ActKind.GIVE_UP) == 1
    assert box.target == 1
    assert ActKind.RETIRE not in box.kinds


def test_blind_it_lets_the_plan_stand_and_sheds_nothing() -> None:
    box = Box(blind=True, wanted=5)
    box.last(30)
    assert box.target == 5
    assert set(box.kinds) == {ActKind.START}


def test_blind_after_an_incident_it_does_not_grow() -> None:
    box = Box(limit_bytes=4 * GIB, wanted=6)
    box.last(30)
    box.neighbour_bytes = int(1.2 * GIB)
    box.last(30)
    low = box.target
    box.neighbour_bytes, box.blind = 0, True
    box.last(3000)
    assert box.target == low


def test_one_kill_ends_all_so_every_line_moves_down() -> None:
    alone = Box(limit_bytes=3 * GIB, wanted=6)
    grouped = Box(limit_bytes=3 * GIB, wanted=6, guard=Guard(Surroundings(oom_group=True)))
    alone.last(60)
    grouped.last(60)
    assert grouped.target < alone.target
    assert grouped.oom_kills == 0


def test_four_ranks_leave_room_for_each_other() -> None:
    single = Box(limit_bytes=6 * GIB, wanted=16)
    shared = Box(limit_bytes=6 * GIB, wanted=16, guard=Guard(Surroundings(ranks=4)))
    single.last(60)
    shared.last(60)
    assert shared.target < single.target


def test_a_single_high_sample_is_not_acted_on() -> None:
    box = Box(limit_bytes=4 * GIB, wanted=6)
    box.last(30)
    count = len(box.acts)
    box.neighbour_bytes = int(0.95 * GIB)
    verdict = next(box.run(1))
    assert verdict.danger.level >= PressureLevel.SHRINK
    box.neighbour_bytes = 0
    box.last(5)
    assert len(box.acts) == count


def test_pressure_stall_only_confirms() -> None:
    guard = Guard()
    view = LoaderView(wanted=4, target=4, live=(1, 2, 3, 4), prefetch=1, steps=5, warm=True)

    def reading(at_s: float, used: int) -> Reading:
        return Reading(at_s=at_s, levels=(MemoryLevel(64 * GIB, used, "memory.max"),), psi_some_percent=80.0)

    assert guard.step(reading(0, 10 * GIB), view).level is PressureLevel.NORMAL
    guard.step(reading(100, int(61.9 * GIB)), view)
    assert guard.step(reading(101, int(61.9 * GIB)), view).level is PressureLevel.SHRINK


def test_small_shared_memory_sheds_without_killing() -> None:
    guard = Guard()
    free = 15 * MIB
    kinds = []
    target, prefetch = 4, 2
    for tick in range(200):
        live = tuple(range(1, target + 1))
        view = LoaderView(4, target, live, prefetch, 2, batch_bytes=20 * MIB, steps=3, warm=True, elastic=False)
        shm = ShmFacts(64 * MIB, free, "/dev/shm")
        act = guard.step(Reading(tick * 0.5, (MemoryLevel(64 * GIB, GIB, "m"),), shm=shm), view).act
        target, prefetch = act.target, act.prefetch
        kinds.append(act.kind)
    assert target == 1
    assert prefetch == 1
    assert ActKind.KILL not in kinds
    assert kinds.count(ActKind.GIVE_UP) == 1


def test_the_poll_is_slow_when_there_is_room_and_fast_when_there_is_not() -> None:
    roomy = Box(limit_bytes=64 * GIB, wanted=2)
    assert roomy.last(60).poll_s == GuardLimits().slowest_poll_s
    tight = Box(limit_bytes=int(2.5 * GIB), trainer_bytes=int(1.2 * GIB))
    assert tight.last(60).poll_s <= 0.2
