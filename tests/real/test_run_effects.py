"""What a run with ``auto`` sets in motion beside its numbers, on LLaMA-Factory's real data loading."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab

pytestmark = pytest.mark.real
SCRIPT = Path(__file__).with_name("run_effects.py")


def run(lab: Lab, scenario: str, values: dict[str, Any], **environ: str | None) -> dict[str, Any]:
    (lab.scratch / "values.json").write_text(json.dumps(values))
    outcome = lab.run([sys.executable, SCRIPT, scenario, lab.scratch / "values.json"], 240, **environ)
    assert outcome.code == 0, outcome.text[-3000:]
    found: dict[str, Any] = json.loads(outcome.text.rpartition("@@")[2])
    return found


def test_another_number_recomputes_no_row_and_children_have_one_thread(lab: Lab) -> None:
    values = lab.values("text", overwrite_cache=False)
    first = run(
        lab, "fingerprint", values, ROWS_FILE=str(lab.scratch / "first"), LF_AUTOWORKERS_PREPROCESSING_NUM_WORKERS="3"
    )
    second = run(
        lab, "fingerprint", values, ROWS_FILE=str(lab.scratch / "second"), LF_AUTOWORKERS_PREPROCESSING_NUM_WORKERS="2"
    )
    assert (first["number"], second["number"]) == (3, 2)
    assert first["processes"] == 3
    assert first["child threads"] == [1]
    assert first["parent threads unchanged"]
    assert first["rows"] >= 240
    assert second["rows"] == 0
    assert first["fingerprint"] == second["fingerprint"]


def test_every_streaming_worker_has_a_shard(lab: Lab) -> None:
    found = run(lab, "streamed", lab.values("text", streaming=True), LF_AUTOWORKERS_DATALOADER_NUM_WORKERS="3")
    assert (found["workers"], found["shards"], found["rows"]) == (3, 3, 240)
    assert set(found["per worker"]) == {"0", "1", "2"}


def test_shards_are_workers_times_ranks(lab: Lab) -> None:
    found = run(
        lab,
        "streamed",
        lab.values("text", streaming=True, accelerator_config={"dispatch_batches": False}),
        LF_AUTOWORKERS_DATALOADER_NUM_WORKERS="2",
        LF_AUTOWORKERS_LOCAL_WORLD_SIZE="4",
    )
    assert (found["workers"], found["shards"]) == (2, 8)


def test_a_file_with_fewer_rows_than_workers_does_not_raise(lab: Lab) -> None:
    found = run(lab, "streamed", lab.values("few", streaming=True), LF_AUTOWORKERS_DATALOADER_NUM_WORKERS="8")
    assert (found["workers"], found["shards"], found["rows"]) == (3, 3, 3)
