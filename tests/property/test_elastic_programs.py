"""A seeded part of the random programs; the long run is `python -m tests.property.elastic_programs --programs 1000`."""

from __future__ import annotations

import pytest

from lf_autoworkers.elastic import state
from tests.property.elastic_programs import run_many

# PyTorch's own, where a test machine has few cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(autouse=True)
def _nothing_is_poisonous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "DEATHS_PER_BATCH", state.DEATHS_PER_BATCH)


def test_forked_programs_give_the_batches_of_0_workers() -> None:
    assert run_many(range(1, 81), spawn_every=0)["lost"] > 100


def test_spawned_programs_give_the_batches_of_0_workers() -> None:
    run_many(range(1000, 1002), spawn_every=1)
