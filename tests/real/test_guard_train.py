"""The run that would have been OOM-killed finishes: LLaMA-Factory itself, on the real kernel."""

from __future__ import annotations

import pytest

from tests.lab import Lab

from .boxes import unavailable
from .guard_training import Training

REASON = unavailable()


@pytest.mark.real
@pytest.mark.cgroup
@pytest.mark.skipif(REASON is not None, reason=REASON or "")
def test_where_the_folk_rule_dies_auto_and_a_forced_eight_finish(lab: Lab) -> None:
    training = Training(lab)
    eight = training.train(8, None)
    # The trainer and one worker take some 45 % of what eight workers' peak is (benchmarks/guard_matrix.py).
    limit = int(0.62 * eight.run.peak_bytes)

    fixed = training.train(8, limit)
    assert fixed.run.code != 0
    assert fixed.run.oom_kills > 0

    auto = training.train("auto", limit)
    assert auto.finished, auto.run.text
    assert auto.losses == eight.losses

    forced = training.train("auto", limit, forced=8, on_parent=True)
    assert forced.finished, forced.run.text
    assert forced.losses == eight.losses
    assert "memory guard: starts up to 8 workers one by one" in forced.run.text
