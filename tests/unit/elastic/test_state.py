"""The state machine's rules, one by one; any order of events is `tests/property/test_elastic_state.py`'s."""

from __future__ import annotations

import pytest

from lf_autoworkers.elastic import messages as m
from tests.property.elastic_model import LoaderModel


def loader(batches: int = 10, target: int = 2, factor: int = 2) -> LoaderModel:
    """Return a loader whose workers have said hello and whose first batches are given out."""
    model = LoaderModel(batches, target, factor)
    model.request()
    for serial in model.unborn():
        model.says_hello(serial)
    return model


def reports(model: LoaderModel, event: m.Event, kind: type) -> list[m.Instruction]:
    return [instruction for instruction in model.state.handle(event) if isinstance(instruction, kind)]


def test_a_worker_holds_one_long_batch_or_two_short_ones() -> None:
    model = loader(target=1, factor=4)
    assert model.state.holds(0) == 1  # nothing is known yet
    model.delivers(0, m.Outcome.SENT, wall_s=0.001)
    assert model.state.holds(0) == 2
    for _ in range(2):
        model.delivers(0, m.Outcome.SENT, wall_s=100.0)
    for _ in range(3):
        model.request()
    assert model.state.holds(0) == 1


def test_no_more_is_read_ahead_than_the_workers_ask_for() -> None:
    model = loader(batches=100, target=3, factor=4)
    assert model.pulled == 12
    model.resize(1)
    model.delivers(model.busy()[0], m.Outcome.SENT)
    model.request()
    assert model.pulled == 12


def test_in_process_is_read_ahead_by_nothing() -> None:
    model = LoaderModel(5, 0, 2)
    for expected in range(1, 6):
        assert model.request()
        assert model.pulled == expected
    assert not model.processes


def test_a_batch_that_kills_three_workers_is_given_up_and_the_rest_goes_on() -> None:
    model = loader(target=1)
    for _ in range(3):
        model.dies(model.busy()[0], m.Cause.CRASH)
        model.request()
        for serial in model.unborn():
            model.says_hello(serial)
    assert model.given_up == {0: m.Verdict.POISON}
    model.drain()
    assert model.delivered == list(range(10))


def test_an_innocent_second_batch_is_not_blamed() -> None:
    model = loader(target=1, factor=4)
    model.delivers(0, m.Outcome.SENT)
    for _ in range(2):
        model.dies(model.busy()[0], m.Cause.CRASH)
        model.request()
        model.says_hello(model.unborn()[0])
    assert model.state.entries[1].crashes == 2
    assert all(model.state.entries[index].crashes == 0 for index in model.state.entries if index != 1)


def test_kills_by_ourselves_never_make_a_batch_poisonous() -> None:
    model = loader(target=1)
    for _ in range(10):
        model.dies(model.busy()[0], m.Cause.OURS)
        model.request()
        for serial in model.unborn():
            model.says_hello(serial)
    assert not model.given_up
    model.drain()


def test_oom_kills_in_company_lead_to_a_try_alone_and_only_those_alone_count() -> None:
    model = loader(target=2, factor=2)
    company = []
    while not model.given_up:
        holder = next(serial for serial in model.busy() if model.processes[serial].tasks[0][1] == 0)
        company.append(len(model.busy()) > 1)
        model.dies(holder, m.Cause.OOM)
        model.request()
        for serial in model.unborn():
            model.says_hello(serial)
        if len(company) >= 3:  # whoever else is at work finishes; nothing is given out beside batch 0
            for serial in [other for other in model.busy() if model.processes[other].tasks[0][1] != 0]:
                model.delivers(serial, m.Outcome.SENT)
        assert len(company) < 10
    assert company == [True, True, True, False, False, False]
    assert model.given_up == {0: m.Verdict.TOO_BIG}
    model.drain()


def test_workers_that_never_say_hello_are_started_three_times_and_then_no_more() -> None:
    model = LoaderModel(10, 1, 2)
    for _ in range(3):
        model.request()
        model.dies(model.unborn()[0], m.Cause.CRASH)
    assert model.request()  # in process
    assert not model.processes
    model.drain()
    model.begin_epoch()
    model.request()
    assert model.processes, "the next epoch tries again"


def test_a_late_hello_is_killed_and_frozen_at_once() -> None:
    model = LoaderModel(10, 2, 2)
    model.request()
    first, second = model.unborn()
    model.says_hello(first)
    assert reports(model, m.HelloOverdue(second), m.ReportFrozen) == [m.ReportFrozen(0)]
    model.processes[second].killed = True
    model.dies(second, m.Cause.OURS)
    model.request()
    assert list(model.processes) == [first]
    model.drain()


def test_an_init_error_is_raised_once_per_worker_that_fails_and_takes_a_batch_with_it() -> None:
    model = LoaderModel(4, 1, 2)
    model.request()
    model.fails_init(model.unborn()[0])
    assert model.state.handle(m.Requested()) == [m.RaiseInitError(0)]
    model.delivered.append(0)
    model.dies(model.alive()[0], m.Cause.CRASH)
    model.request()
    model.says_hello(model.unborn()[0])
    model.drain()
    assert model.delivered == [0, 1, 2, 3]


def test_an_unsent_batch_comes_inline_and_then_in_process() -> None:
    model = loader(target=1)
    generation, index = model.processes[0].tasks.pop(0)
    again = model.state.handle(m.Arrived(0, generation, index, m.Outcome.UNSENT, 0.001))
    assert m.Dispatch(0, 0, inline=True) in again
    model.state.handle(m.Arrived(0, generation, index, m.Outcome.UNSENT, 0.001))
    assert model.state.handle(m.Requested())[-1] == m.LoadInProcess(0)


def test_a_batch_that_cannot_cross_is_made_in_process_at_once() -> None:
    model = loader(target=1)
    model.delivers(0, m.Outcome.UNSENDABLE)
    assert m.LoadInProcess(0) in model.state.handle(m.Requested())


def test_the_same_batch_is_killed_for_hanging_once_and_named_twice() -> None:
    model = loader(target=1)
    told = []
    for _ in range(4):
        serial = model.busy()[0]
        out = model.state.handle(m.BatchOverdue(serial))
        told.append([type(instruction).__name__ for instruction in out])
        if any(isinstance(instruction, m.KillWorker) for instruction in out):
            model.dies(serial, m.Cause.OURS)
            model.request()
            model.says_hello(model.unborn()[0])
    assert told == [["ReportHang", "KillWorker"], ["ReportHang"], [], []]
    model.drain()


def test_the_named_leave_first_then_the_idle_then_the_newest() -> None:
    model = loader(target=3, factor=1, batches=2)  # serials 0 and 1 hold a batch, 2 is idle
    model.resize(2, first=(0,))
    assert model.state.workers[0].phase.value == "retiring"
    model.resize(1)
    assert model.processes[2].told_to_stop
    model.drain()


def test_a_worker_on_its_way_out_is_called_back_if_it_was_not_told_yet() -> None:
    model = loader(target=2, factor=2)
    model.resize(1)
    leaving = [serial for serial, worker in model.state.workers.items() if worker.phase.value == "retiring"]
    model.resize(2)
    model.request()
    assert len(leaving) == 1 and len(model.processes) == 2
    assert all(worker.phase.value == "live" for worker in model.state.workers.values())


def test_without_feeding_only_the_wanted_batch_is_given_out() -> None:
    model = loader(target=2, factor=2)
    model.send(m.FeedSet(False))
    for serial in model.busy():
        model.delivers(serial, m.Outcome.SENT)
    assert not model.busy()
    while model.request():
        pass
    assert len(model.busy()) == 1
    model.send(m.FeedSet(True))
    model.request()
    assert len(model.busy()) == 2
    model.drain()


def test_with_a_veto_and_nobody_alive_batches_are_made_in_process() -> None:
    model = LoaderModel(5, 2, 2)
    model.vetoing = True
    assert model.request() and model.request()
    assert model.delivered == [0, 1] and not model.processes
    model.vetoing = False
    model.drain()


def test_old_generations_are_dropped_and_their_deaths_blame_nobody() -> None:
    model = loader(target=1)
    model.begin_epoch()
    assert model.state.in_hand(0) is None
    model.dies(0, m.Cause.CRASH)
    assert not model.state.entries
    model.drain()
    assert model.delivered == list(range(10))


def test_dispatch_takes_the_lowest_batch_first_also_after_a_death() -> None:
    model = loader(batches=20, target=2, factor=4)
    model.dies(0, m.Cause.OURS)
    model.delivers(1, m.Outcome.SENT, wall_s=1.0)
    assert model.processes[1].tasks[0] == (1, 0)


@pytest.mark.parametrize("target", [0, 1, 3])
def test_an_empty_sampler_ends_at_once_and_starts_nobody_again(target: int) -> None:
    model = LoaderModel(0, target, 2)
    assert model.request()
    assert model.finished
