"""The loader's state machine under any order of events: nothing lost, nothing twice, nothing out of order, no halt.

The long run, a million events and more: ``python -m tests.property.elastic_model --events 1000000``.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from lf_autoworkers.elastic import messages as m
from tests.property.elastic_model import LoaderModel, walk


class LoaderMachine(RuleBasedStateMachine):
    """Every rule is one thing that can happen; the model checks the invariants after each event."""

    model: LoaderModel

    @initialize(batches=st.integers(0, 30), workers=st.integers(0, 4), factor=st.integers(1, 3))
    def begin(self, batches: int, workers: int, factor: int) -> None:
        self.model = LoaderModel(batches, workers, factor)

    @rule(unsendable_index=st.booleans())
    def request(self, unsendable_index: bool) -> None:
        self.model.request(in_process_only=unsendable_index)

    @precondition(lambda self: bool(self.model.unborn()))
    @rule(choice=st.data())
    def hello(self, choice: st.DataObject) -> None:
        self.model.says_hello(choice.draw(st.sampled_from(self.model.unborn())))

    @precondition(lambda self: bool(self.model.unborn()))
    @rule(choice=st.data())
    def hello_never_comes(self, choice: st.DataObject) -> None:
        self.model.send(m.HelloOverdue(choice.draw(st.sampled_from(self.model.unborn()))))

    @precondition(lambda self: bool(self.model.unborn()))
    @rule(choice=st.data())
    def init_fails(self, choice: st.DataObject) -> None:
        self.model.fails_init(choice.draw(st.sampled_from(self.model.unborn())))

    @precondition(lambda self: bool(self.model.busy()))
    @rule(choice=st.data(), outcome=st.sampled_from(m.Outcome), wall_s=st.sampled_from((0.001, 100.0)))
    def deliver(self, choice: st.DataObject, outcome: m.Outcome, wall_s: float) -> None:
        self.model.delivers(choice.draw(st.sampled_from(self.model.busy())), outcome, wall_s)

    @precondition(lambda self: bool(self.model.alive()))
    @rule(choice=st.data(), cause=st.sampled_from(m.Cause))
    def die(self, choice: st.DataObject, cause: m.Cause) -> None:
        self.model.dies(choice.draw(st.sampled_from(self.model.alive())), cause)

    @rule(cause=st.sampled_from(m.Cause))
    def all_die(self, cause: m.Cause) -> None:
        for serial in self.model.alive():
            self.model.dies(serial, cause)

    @rule(workers=st.integers(0, 5), choice=st.data())
    def resize(self, workers: int, choice: st.DataObject) -> None:
        alive = self.model.alive()
        first = choice.draw(st.lists(st.sampled_from(alive), max_size=2)) if alive else []
        self.model.resize(workers, tuple(first))

    @precondition(lambda self: bool(self.model.alive()))
    @rule(choice=st.data())
    def retire(self, choice: st.DataObject) -> None:
        self.model.send(m.RetireAsked(choice.draw(st.sampled_from(self.model.alive()))))

    @precondition(lambda self: bool(self.model.busy()))
    @rule(choice=st.data())
    def hang(self, choice: st.DataObject) -> None:
        self.model.send(m.BatchOverdue(choice.draw(st.sampled_from(self.model.busy()))))

    @rule(factor=st.integers(1, 3))
    def prefetch(self, factor: int) -> None:
        self.model.set_factor(factor)

    @rule(on=st.booleans())
    def feed(self, on: bool) -> None:
        self.model.send(m.FeedSet(on))

    @rule(vetoing=st.booleans())
    def veto(self, vetoing: bool) -> None:
        self.model.vetoing = vetoing

    @rule()
    def next_epoch(self) -> None:
        self.model.begin_epoch()

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.model.drain()


TestLoaderMachine = LoaderMachine.TestCase
TestLoaderMachine.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_a_long_walk_loses_nothing() -> None:
    sent, delivered = walk(events=60_000, seed=4)
    assert sent >= 60_000
    assert delivered > 0
