"""The report: one screen from a journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lf_autoworkers.errors import ConfigError
from lf_autoworkers.journal import JOURNAL_NAME
from lf_autoworkers.report.summary import report
from lf_autoworkers.units import GIB

START = {"event": "guard", "mode": "on", "wanted": 8}
TOTALS = {
    "target": 3,
    "wanted": 8,
    "wait_s": 6.0,
    "wall_s": 60.0,
    "tightest_headroom_bytes": GIB // 2,
    "tightest_limit_bytes": 4 * GIB,
    "tightest_source": "/sys/fs/cgroup/memory.max",
}


def write_journal(directory: Path, *events: dict[str, Any]) -> Path:
    """Write events that are a second apart and a step a second."""
    lines = [json.dumps({"time": 1000.0 + at, "step": at, **event}) for at, event in enumerate(events)]
    (directory / JOURNAL_NAME).write_text("\n".join(lines) + "\n")
    return directory


def grow(count: int) -> dict[str, Any]:
    return {"event": "resize", "act": "start", "from": count - 1, "to": count, "because": "room for one more"}


def test_a_run_that_shed_workers(tmp_path: Path) -> None:
    shed = {"event": "resize", "act": "retire", "from": 4, "to": 3, "because": "memory guard: ...", "pid": 7}
    died = {"event": "worker_lost", "by_us": False, "oom_killed": True, "redone_batches": 2}
    decided = {"event": "decision", "field": "dataloader_num_workers", "value": 8, "because": "cpu: 8 usable"}
    pulse = {"event": "pulse", **TOTALS}
    text = report(
        write_journal(
            tmp_path, decided, START, grow(2), grow(3), grow(4), shed, died, pulse, {"event": "summary", **TOTALS}
        )
    )
    assert "8 steps in 8 s" in text
    assert "dataloader_num_workers: auto -> 8 <- cpu: 8 usable" in text
    assert "1 to 4, at the end 3" in text
    assert "10.0% of the time" in text
    assert "512.0 MiB left of 4.0 GiB" in text
    assert "retire 1x" in text
    assert "1 workers died (1 by the kernel's OOM killer), 2 batches done again" in text
    assert "LF_AUTOWORKERS_DATALOADER_NUM_WORKERS=3" in text
    assert max(len(line) for line in text.splitlines()[1:]) < 160
    assert len(text.splitlines()) <= 12


def test_the_newest_run_of_a_journal(tmp_path: Path) -> None:
    text = report(
        write_journal(tmp_path, START, grow(2), {"event": "summary", **TOTALS}, START, {"event": "pulse", **TOTALS})
    )
    assert "1 earlier in the same journal" in text
    assert "no end recorded" in text


def test_a_run_that_does_not_wait_needs_no_change(tmp_path: Path) -> None:
    totals = {**TOTALS, "target": 8, "wait_s": 0.1}
    text = report(write_journal(tmp_path, START, {"event": "summary", **totals}))
    assert "more workers would not help" in text
    assert "had nothing to do" in text


def test_giving_up_names_the_way_out(tmp_path: Path) -> None:
    line = "memory guard: memory 1.0 MiB left ...: lower the batch size, or raise the limit"
    gave_up = {"event": "act", "act": "give up", "from": 1, "to": 1, "because": line}
    text = report(write_journal(tmp_path, START, gave_up, {"event": "summary", **TOTALS}))
    assert "change    memory 1.0 MiB left ...: lower the batch size" in text


def test_a_ramp_that_stopped_short_is_named(tmp_path: Path) -> None:
    note = {"event": "note", "text": "memory guard: 3 workers of 8, step 5: one more may need 0.9 GiB"}
    text = report(write_journal(tmp_path, START, grow(2), grow(3), note, {"event": "summary", **TOTALS}))
    assert "guard     3 workers of 8, step 5" in text
    assert "change    none" in text


def test_without_the_guard(tmp_path: Path) -> None:
    decided = {"event": "decision", "field": "dataloader_num_workers", "value": 2}
    text = report(write_journal(tmp_path, decided))
    assert "guard     off" in text


@pytest.mark.parametrize("content", [None, "", "not json\n"])
def test_no_journal_is_one_sentence(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / JOURNAL_NAME).write_text(content)
    with pytest.raises(ConfigError, match=JOURNAL_NAME):
        report(tmp_path)
