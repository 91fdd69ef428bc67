"""The consumer's thread: pulls the sampler, starts workers, waits, hands batches over.

Only this thread forks and only this thread touches the sampler. Does NOT know DataLoaders; `iterator.py` does.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import Any

from torch._utils import ExceptionWrapper

from lf_autoworkers.elastic import messages as m
from lf_autoworkers.elastic.api import BatchCost
from lf_autoworkers.elastic.pool import Index, Pool
from lf_autoworkers.errors import LoaderError

#: How often a waiting consumer asks again whether a worker may be started, seconds.
ASK_AGAIN_S = 0.25


class Consumer:
    """Takes the batches of one pool, in order.

    Args:
        pool: The workers and what they make.
        pull: Gives the sampler's next index batch.
        load: Makes a batch on this thread, given the index batch and its seed.
        timeout_s: PyTorch's ``timeout``: the longest wait for a batch, seconds; 0 is for ever.
    """

    def __init__(self, pool: Pool, pull: Callable[[], Any], load: Callable[[Any, int], Any], timeout_s: float) -> None:
        self._pool = pool
        self._pull_index = pull
        self._load = load
        self._timeout_s = timeout_s
        self._sampler_error: Exception | None = None

    def begin(self, base_seed: int, epoch: int) -> None:
        """Start an epoch: workers are started now, the sampler is pulled at the first `next` (as with 0 workers)."""
        pool = self._pool
        self._sampler_error = None
        pool.begin(base_seed, epoch)
        with pool.lock:
            pool.carry_out(pool.state.handle(m.Requested()))
        self._start()
        pool.flush_events()

    def next(self) -> Any:
        """Return the next batch, or raise what stands in its place.

        Raises:
            StopIteration: the epoch is over.
            LoaderError: a batch that cannot be made.
            RuntimeError: the time-out passed.
            Exception: what the dataset, the collator, ``worker_init_fn`` or the sampler raised.
        """
        pool = self._pool
        begun = time.monotonic()
        deadline = begun + self._timeout_s if self._timeout_s > 0 else None
        answer: m.Instruction | None = None
        may_start = True
        while answer is None:
            self._pull()
            with pool.lock:
                answer = pool.carry_out(pool.state.handle(m.Requested(may_start)))
                may_start = True
                if answer is None and not pool.to_start and not pool.state.wanted():
                    if deadline is not None and time.monotonic() >= deadline:
                        raise RuntimeError(f"DataLoader timed out after {self._timeout_s:g} seconds")
                    rest = ASK_AGAIN_S if deadline is None else max(0.0, deadline - time.monotonic())
                    pool.lock.wait(min(ASK_AGAIN_S, rest))
            if pool.to_start:
                may_start = self._start()
            pool.flush_events()
        if pool.state.target > 0:
            self._pull()  # the next batch is begun while the consumer works on this one
        return self._take(answer, begun)

    def _pull(self) -> None:
        pool = self._pool
        while pool.state.wanted():
            event: m.Event = m.Exhausted()
            index: Index | None = None
            try:
                raw = self._pull_index()
            except StopIteration:
                pass
            except Exception as error:  # told in its own place, after the batches before it
                self._sampler_error = error
            else:
                index = Index(raw, _pickled(raw))
                event = m.Pulled(in_process=index.frame is None)
            with pool.lock:
                if index is not None:
                    pool.indices[pool.state.next_pull] = index
                pool.carry_out(pool.state.handle(event))

    def _start(self) -> bool:
        """Start workers, one by one and each only if whoever steers allows it; False if one could not be started."""
        pool = self._pool
        starts, pool.to_start = pool.to_start, []
        may_start = pool.run.may_start
        all_started = True
        for start in starts:
            failed: Exception | None = None
            if may_start is None or may_start():
                try:
                    pool.start_one(start)
                    continue
                except Exception as error:
                    if not pool.started_any and not isinstance(error, OSError):
                        raise  # cannot be pickled for this start method: told as PyTorch does
                    failed = error
            all_started = False
            with pool.lock:
                if failed is not None:
                    pool.note(f"a dataloader worker could not be started ({failed}); going on with those there are")
                pool.carry_out(pool.state.handle(m.StartFailed(start.serial, vetoed=failed is None)))
        return all_started

    def _take(self, answer: m.Instruction, begun: float) -> Any:
        pool = self._pool
        match answer:
            case m.Deliver(index):
                with pool.lock:
                    value = pool.ready.pop(index).value
                    del pool.indices[index]
                pool.run.note_delivery(time.monotonic() - begun, in_process=False)
                if isinstance(value, LoaderError):
                    raise value
                if isinstance(value, ExceptionWrapper):
                    value.reraise()  # type: ignore[no-untyped-call]
                return value
            case m.LoadInProcess(index):
                with pool.lock:
                    wanted = pool.indices.pop(index)
                cpu, wall = time.process_time(), time.perf_counter()
                value = self._load(
                    wanted.raw if wanted.frame is None else pickle.loads(wanted.frame), pool.seed_of(index)
                )
                cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
                pool.run.note_cost(BatchCost(index, cpu_s, wall_s, batch_bytes=None, pid=None))
                pool.run.note_delivery(time.monotonic() - begun, in_process=True)
                return value
            case m.RaiseInitError(index):
                with pool.lock:
                    error, pool.init_error = pool.init_error, None
                    del pool.indices[index]
                assert error is not None
                error.reraise()  # type: ignore[no-untyped-call]
        if self._sampler_error is not None:
            sampler_error, self._sampler_error = self._sampler_error, None
            raise sampler_error
        raise StopIteration


def _pickled(index: Any) -> bytes | None:
    """Return the index batch as a worker gets it, taken now: a sampler may go on changing the list it gave."""
    try:
        return pickle.dumps(index, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception:
        return None
