"""What the guard did in recorded runs it does again: journals of real boxes, seen by the policy of today.

A journal holds the readings while something was the matter, not the quiet ones, so the times are compared loosely.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lf_autoworkers.journal import read_journal
from lf_autoworkers.steering.guard import ActKind

from .replay import replay

SHEDDING = {ActKind.RETIRE, ActKind.KILL, ActKind.RECYCLE}
RECORDED = sorted(Path(__file__).parent.glob("*.jsonl"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_the_same_run_leads_to_the_same_first_act(path: Path) -> None:
    recorded, readings = [], 0
    at_s = 0.0
    for event in read_journal(path):
        if event["event"] == "reading":
            at_s, readings = event["at_s"], readings + 1
        elif event.get("act") in SHEDDING:
            recorded.append((at_s, event["act"]))
    replayed = [(event["at_s"], verdict.act.kind) for verdict, event in replay(path) if verdict.act.kind in SHEDDING]
    assert recorded
    assert readings > 20
    assert abs(replayed[0][0] - recorded[0][0]) < 2.0
    assert replayed[0][1] == recorded[0][1]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_no_act_while_the_recorded_reading_was_harmless(path: Path) -> None:
    for verdict, event in replay(path):
        (limit, used) = event["levels"][0][1:]
        if limit - used > limit / 2:
            assert verdict.act.kind not in SHEDDING
        assert verdict.act.target <= event["wanted"]
