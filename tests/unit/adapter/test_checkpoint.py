"""Which checkpoint a run resumes from, and the count that travels with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lf_autoworkers.adapter.checkpoint import V1_MARKER, save_count, stored_count

LOADER = "dataloader_num_workers"


def checkpoint(folder: Path, step: int, count: int | None = None) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    if count is not None:
        save_count(path, count)
    return path


def test_the_newest_checkpoint_of_a_streamed_run_gives_its_count(tmp_path: Path) -> None:
    checkpoint(tmp_path, 9, 2)
    checkpoint(tmp_path, 100, 3)
    (tmp_path / "checkpoint-best").mkdir()
    arguments: dict[str, Any] = {"output_dir": str(tmp_path), "streaming": True}
    assert stored_count(arguments, LOADER) == 3
    assert stored_count({**arguments, "overwrite_output_dir": "true"}, LOADER) is None
    assert stored_count({**arguments, "resume_from_checkpoint": str(tmp_path / "checkpoint-9")}, LOADER) == 2
    assert stored_count({**arguments, "streaming": False}, LOADER) is None
    assert stored_count(arguments, None) is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"dataloader_num_workers": "x"}',
        '{"dataloader_num_workers": -3}',
        '{"dataloader_num_workers": 5000}',
        '{"dataloader_num_workers": true}',
    ],
)
def test_a_damaged_count_is_none(tmp_path: Path, content: str) -> None:
    (checkpoint(tmp_path, 1) / "autoworkers.json").write_text(content)
    assert stored_count({"output_dir": str(tmp_path), "streaming": True}, LOADER) is None


def test_v1_reads_the_count_out_of_the_saved_loader_state(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for step, count in ((1, 4), (2, 7)):
        place = tmp_path / f"checkpoint-{step}" / "dataloader"
        place.mkdir(parents=True)
        state = {"buffer": [torch.ones(3)], "data_provider": {"_snapshot": {"_main_snapshot": {"_num_workers": count}}}}
        torch.save(state, place / "rank_0.pt")
    (tmp_path / "checkpoint-1" / V1_MARKER).touch()
    named = {"output_dir": str(tmp_path), "resume_from_checkpoint": str(tmp_path / "checkpoint-2")}
    assert stored_count(named, "batching_workers") == 7
    assert stored_count({**named, "resume_from_checkpoint": "auto"}, "batching_workers") == 4  # the complete one
    assert stored_count({"output_dir": str(tmp_path)}, "batching_workers") is None
    (tmp_path / "checkpoint-2" / "dataloader" / "rank_0.pt").write_bytes(b"no zip")
    assert stored_count(named, "batching_workers") is None
