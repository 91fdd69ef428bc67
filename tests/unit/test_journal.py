"""The journal: append-only, one line an event, and never the end of a run."""

from __future__ import annotations

import json
import logging
import math
import threading
from pathlib import Path

import pytest

from lf_autoworkers.journal import JOURNAL_NAME, Journal, read_journal

LOGGER = logging.getLogger("tests.journal")


def test_a_second_run_appends(tmp_path: Path) -> None:
    path = tmp_path / "out" / JOURNAL_NAME
    for step in (1, 2):
        journal = Journal(path, LOGGER, clock=lambda: 1700000000.123456)
        journal.write("resize", step, because="x", **{"from": 4, "to": 3})
        journal.close()
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"time": 1700000000.123, "step": step, "event": "resize", "because": "x", "from": 4, "to": 3} for step in (1, 2)
    ]


def test_numbers_json_does_not_know_become_null(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", LOGGER)
    journal.write("reading", 0, left_s=math.inf, nested={"a": [math.nan, 1.23456]}, path=Path("/x"))
    journal.close()
    (event,) = read_journal(tmp_path / "j")
    assert event["left_s"] is None
    assert event["nested"] == {"a": [None, 1.235]}
    assert event["path"] == "/x"


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "j").write_text(
        '{"time":1,"step":0,"event":"a"}\n{"time":2,"st\n[1]\n{"time":3,"step":0,"event":"b"}\n'
    )
    assert [event["event"] for event in read_journal(tmp_path / "j")] == ["a", "b"]


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", LOGGER)

    def write_many() -> None:
        for step in range(100):
            journal.write("e", step, text="x" * 500)

    threads = [threading.Thread(target=write_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    assert len(list(read_journal(tmp_path / "j"))) == 400


def test_a_full_disk_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    journal = Journal(full, LOGGER)
    with caplog.at_level(logging.WARNING):
        for step in range(5):
            journal.write("e", step)
    journal.close()
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text


def test_a_path_that_cannot_be_made_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    journal = Journal(tmp_path / "file" / "j", LOGGER)
    with caplog.at_level(logging.WARNING):
        journal.write("e", 0)
        journal.write("e", 1)
    assert len(caplog.records) == 1


def test_without_a_path_nothing_is_kept() -> None:
    Journal(None, LOGGER).write("e", 0)
