"""PyTorch's contract, point by point, on a plain DataLoader; deaths are `test_deaths.py`'s."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, SequentialSampler, get_worker_info

from lf_autoworkers.elastic import ElasticOptions, ElasticRun, elastic, install
from lf_autoworkers.elastic.iterator import ElasticIter
from tests.property.elastic_programs import same
from tests.unit.elastic.rows import Big, Numbers, fails_on

CONTEXTS = ["fork", "forkserver", "spawn"]


def flat(batches: Any) -> list[int]:
    return [int(number) for batch in batches for number in batch.flatten()]


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.005)


class Whoami(Numbers):
    """Rows tell about the worker that makes them."""

    def __getitem__(self, row: int) -> Any:
        worker = get_worker_info()
        assert worker is not None
        return torch.tensor([worker.id, worker.num_workers, worker.seed, os.getpid(), os.environ.get("WHO", 0) != 0])


class Drawing(Numbers):
    """Rows of random numbers from all three generators."""

    def __getitem__(self, row: int) -> Any:
        import random

        return random.random(), float(np.random.random()), torch.rand(2)


def set_who(worker_id: int) -> None:
    os.environ["WHO"] = str(worker_id)


def fail_to_start(worker_id: int) -> None:
    raise LookupError(f"no data for {worker_id}")


def test_a_plain_loader_gives_its_batches_in_order_and_leaves_the_generator_as_0_workers_do() -> None:
    results = []
    for workers in (None, 0, 2):
        torch.manual_seed(3)
        loader = DataLoader(Numbers(40), batch_size=3, shuffle=True)
        if workers is None:
            batches = flat(loader) + flat(loader)
        else:
            with elastic(loader, workers):
                batches = flat(loader) + flat(loader)
        results.append((batches, float(torch.rand(()))))
    assert results[0] == results[1] == results[2]


def test_persistent_workers_live_on_and_give_the_epochs_of_0_workers() -> None:
    torch.manual_seed(3)
    wanted = [flat(DataLoader(Numbers(20), shuffle=True)) for _ in range(3)]
    torch.manual_seed(3)
    loader = DataLoader(Numbers(20), shuffle=True, num_workers=2, persistent_workers=True)
    pids = []
    with elastic(loader) as run:
        for epoch in range(3):
            assert flat(loader) == wanted[epoch]
            pids.append({worker.pid for worker in run.workers()})
    assert pids[0] == pids[1] == pids[2] and len(pids[0]) == 2


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_start_method_and_the_worker_knows_who_it_is(context: str) -> None:
    loader = DataLoader(
        Whoami(12), batch_size=1, num_workers=2, multiprocessing_context=context, worker_init_fn=set_who
    )
    with elastic(loader):
        rows = [row.flatten().tolist() for row in loader]
    assert {row[0] for row in rows} <= {0, 1}
    assert all(row[1] == 2 and row[3] != os.getpid() and row[4] for row in rows)
    assert len({row[2] - row[0] for row in rows}) == 1


def test_forked_unless_the_user_chose_a_context() -> None:
    unpicklable = Numbers(4, before=lambda row: None)
    with elastic(DataLoader(unpicklable, num_workers=1)) as run, pytest.raises(StopIteration):
        iterator = iter(DataLoader(unpicklable))
        while True:
            next(iterator)
    loader = DataLoader(unpicklable, num_workers=1)
    with elastic(loader) as run:
        assert flat(loader) == [0, 1, 2, 3]
        assert run.stats().in_process_batches == 0
    chosen = DataLoader(unpicklable, num_workers=1, multiprocessing_context="spawn")
    with elastic(chosen), pytest.raises(AttributeError, match=r"pickle|local object"):
        iter(chosen)


def test_content_does_not_depend_on_who_makes_it_and_differs_between_epochs() -> None:
    results = []
    for workers in (0, 1, 3):
        torch.manual_seed(0)
        loader = DataLoader(Drawing(12), batch_size=2)
        with elastic(loader, workers):
            results.append([list(loader), list(loader)])
            after = float(torch.rand(()))
        results[-1].append([after])
    assert same(results[0], results[1]) and same(results[0], results[2])
    assert not same(results[0][0], results[0][1])
    numbers = [float(batch[0][0]) for batch in results[0][0]]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_batches_keys_and_custom_samplers(workers: int) -> None:
    class Reused(Sampler[list[int]]):
        """A batch sampler that goes on changing the list it gave."""

        def __iter__(self) -> Iterator[list[int]]:
            batch: list[int] = []
            for row in range(20):
                batch.append(row)
                if len(batch) == 2:
                    yield batch
                    batch.clear()

    plain = DataLoader(Numbers(5), batch_size=None)
    reused = DataLoader(Numbers(20), batch_sampler=Reused())
    named: DataLoader[Any] = DataLoader({"a": 1, "b": 2}, sampler=["b", "a"], batch_size=None)  # type: ignore[arg-type]
    ordered = DataLoader(Numbers(10), batch_sampler=BatchSampler(SequentialSampler(range(10)), 4, drop_last=True))
    empty = DataLoader(Numbers(0))
    for loader, wanted in ((plain, list(range(5))), (reused, list(range(20))), (ordered, list(range(8))), (empty, [])):
        with elastic(loader, workers):
            assert flat(loader) == wanted
            assert len(list(loader)) == len(loader) if loader is not reused else True
    with elastic(named, workers):
        assert list(named) == [2, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_comes_at_its_own_position_and_iteration_goes_on(workers: int) -> None:
    loader = DataLoader(Numbers(10, fails_on(4, KeyError("row 4"))), batch_size=2)
    with elastic(loader, workers):
        iterator = iter(loader)
        assert flat([next(iterator), next(iterator)]) == [0, 1, 2, 3]
        with pytest.raises(KeyError) as caught:
            next(iterator)
        assert flat(iterator) == [6, 7, 8, 9]
    if workers:
        assert "in DataLoader worker process" in str(caught.value)
        assert "rows.py" in str(caught.value), "the worker's own traceback is part of the message"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sampler_that_raises_does_so_after_the_batches_before_it(workers: int) -> None:
    class Tired(Sampler[int]):
        def __iter__(self) -> Iterator[int]:
            yield from range(3)
            raise OSError("no more rows to be had")

    loader = DataLoader(Numbers(10), sampler=Tired(), batch_size=1)
    with elastic(loader, workers):
        iterator = iter(loader)
        assert flat([next(iterator) for _ in range(3)]) == [0, 1, 2]
        with pytest.raises(OSError, match="no more rows"):
            next(iterator)
        with pytest.raises(StopIteration):
            next(iterator)


def test_an_init_fn_that_raises_is_told_once_per_worker_and_never_loops() -> None:
    loader = DataLoader(Numbers(6), batch_size=1, num_workers=1, worker_init_fn=fail_to_start)
    with elastic(loader):
        iterator = iter(loader)
        for _ in range(2):
            with pytest.raises(LookupError, match="no data for 0"):
                next(iterator)
        del iterator


def test_a_batch_that_does_not_pickle_is_made_in_process(warnings: list[str]) -> None:
    loader = DataLoader(Numbers(4), collate_fn=lambda rows: (rows, lambda: 1))
    with elastic(loader, 1) as run:
        batches = list(loader)
        assert [int(rows[0]) for rows, _ in batches] == [0, 1, 2, 3]
        assert run.stats().in_process_batches == 4
        assert run.stats().unsent_batches == 4
    assert len(warnings) == 1 and "could not send batch 0" in warnings[0]


def test_a_time_out_is_pytorchs_and_the_batch_still_comes() -> None:
    loader = DataLoader(Numbers(2, lambda row: time.sleep(0.6 * row)), num_workers=1, timeout=0.3)
    with elastic(loader):
        iterator = iter(loader)
        assert flat([next(iterator)]) == [0]
        with pytest.raises(RuntimeError, match=r"DataLoader timed out after 0\.3 seconds"):
            next(iterator)
        while True:
            try:
                assert flat([next(iterator)]) == [1]
                break
            except RuntimeError:
                continue


def test_two_iterators_at_once_and_an_abandoned_one() -> None:
    loader = DataLoader(Big(12), batch_size=2)
    with elastic(loader, 2) as run:
        first, second = iter(loader), iter(loader)
        for _ in range(3):
            assert same(next(first), next(second))
        assert len(run.workers()) == 4
        del second
        gc.collect()
        until(lambda: len(run.workers()) == 2)
        assert len(list(first)) == 3
        for _ in loader:
            break
    gc.collect()


def test_no_more_is_read_from_the_sampler_than_workers_times_prefetch() -> None:
    pulled = 0

    class Counting(Sampler[int]):
        def __iter__(self) -> Iterator[int]:
            nonlocal pulled
            for row in range(100):
                pulled += 1
                yield row

    loader = DataLoader(Numbers(100), sampler=Counting(), batch_size=1, num_workers=2, prefetch_factor=3)
    with elastic(loader) as run:
        for taken, _ in enumerate(loader):
            assert pulled <= taken + 1 + 6
            if taken == 20:
                run.set_prefetch(1)
            if taken > 30:
                assert pulled <= min(100, taken + 1 + 2)
        with pytest.raises(ValueError, match="use 1 or more"):
            run.set_prefetch(0)


def test_resizing_up_and_down_is_followed_within_the_epoch() -> None:
    loader = DataLoader(Numbers(400, lambda row: time.sleep(0.002)))
    with elastic(loader, 0, ElasticOptions(ceiling=4)) as run:
        iterator = iter(loader)
        rows = flat([next(iterator) for _ in range(5)])
        assert run.workers() == ()
        assert run.resize(9) == 4
        rows += flat([next(iterator) for _ in range(5)])
        until(lambda: run.stats().live_workers == 4)
        rows += flat([next(iterator) for _ in range(20)])
        run.resize(1)
        until(lambda: len(run.workers()) == 1)
        run.resize(0)
        rows += flat(iterator)
        assert rows == list(range(400))
        assert run.stats().delivered == 400
        assert run.stats().in_process_batches > 50


def test_the_target_belongs_to_the_run_and_one_run_may_serve_many_loaders() -> None:
    loaders = [DataLoader(Numbers(8)) for _ in range(2)]
    run = ElasticRun(1)
    with install(run, lambda loader: loader in loaders):
        assert isinstance(iter(loaders[0]), ElasticIter)
        run.resize(3)
        for loader in loaders:
            iterator = iter(loader)
            next(iterator)
            until(lambda: run.stats().live_workers == 3)
            del iterator
            until(lambda: not run.workers())


def test_a_veto_holds_a_start_back_and_work_goes_on_in_process() -> None:
    asked = []

    def may_start() -> bool:
        asked.append(1)
        return len(asked) > 3

    loader = DataLoader(Numbers(30, lambda row: time.sleep(0.01)))
    with elastic(loader, 1) as run:
        run.may_start = may_start
        iterator = iter(loader)
        assert flat([next(iterator) for _ in range(2)]) == [0, 1]
        assert run.workers() == () and run.stats().in_process_batches == 2
        assert flat(iterator) == list(range(2, 30))
        assert run.stats().in_process_batches < 30


def test_costs_waits_and_depths_are_told() -> None:
    loader = DataLoader(Big(8), batch_size=2)
    with elastic(loader, 1) as run:
        assert len(list(loader)) == 4
        list(zip(range(1), iter(DataLoader(Numbers(1))), strict=True))
        stats = run.stats()
    assert [cost.batch for cost in stats.costs] == [0, 1, 2, 3]
    assert all(cost.wall_s > 0 and cost.pid for cost in stats.costs)
    assert all(cost.batch_bytes and 800_000 < cost.batch_bytes < 900_000 for cost in stats.costs)
    assert stats.wait_s > 0 and stats.last_wait_s is not None and stats.delivered == 4


def test_pinning_happens_on_the_collector_and_its_errors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from lf_autoworkers.elastic import iterator as module

    pinned: list[int] = []

    def pin(value: Any) -> Any:
        pinned.append(int(value[0]))
        if int(value[0]) == 2:
            raise RuntimeError("cannot pin")
        return value + 100

    class Pinning(ElasticIter):
        _pin_memory = True

    monkeypatch.setattr(module, "_pinning", lambda device: (pin, lambda: None))
    monkeypatch.setattr(Pinning, "__setattr__", _all_but_pin_memory)
    loader = DataLoader(Numbers(4), batch_size=1)
    iterator = Pinning(loader, ElasticRun(1), 0)
    assert flat([next(iterator), next(iterator)]) == [100, 101]
    with pytest.raises(RuntimeError, match="cannot pin"):
        next(iterator)
    assert flat(iterator) == [103]
    assert pinned == [0, 1, 2, 3]


def _all_but_pin_memory(self: Any, name: str, value: Any) -> None:
    if name != "_pin_memory":
        object.__setattr__(self, name, value)


def test_shuffles_of_a_generator_of_ones_own_are_those_of_0_workers() -> None:
    def loader(workers: int) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(7)
        sampler = RandomSampler(range(30), generator=generator)
        return DataLoader(Numbers(30), sampler=sampler, generator=generator, num_workers=workers)

    plain, ours = loader(0), loader(2)
    wanted = [flat(plain) for _ in range(3)]
    with elastic(ours):
        assert [flat(ours) for _ in range(3)] == wanted
