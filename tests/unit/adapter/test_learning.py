"""What a run keeps for the next one, and how the next one gets its number back."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from lf_autoworkers.adapter.learning import conclude
from lf_autoworkers.adapter.resolve import Resolution, resolve
from lf_autoworkers.adapter.run import is_main_rank
from lf_autoworkers.hardware import Machine
from lf_autoworkers.history import default_folder
from lf_autoworkers.settings import Settings
from tests.golden.cases import MACHINES

NAMED = {
    "dataset": "nowhere",
    "template": "qwen2_vl",
    "dataloader_num_workers": "auto",
    "per_device_train_batch_size": 8,
}
OWNED = {"dataloader_num_workers", "preprocessing_num_workers", "dataloader_prefetch_factor"}


def resolved(folder: Path, named: dict[str, Any] = NAMED, **settings: Any) -> Resolution:
    machine = Machine.load(MACHINES / "h100_mig_half")
    return resolve(named, OWNED, Settings(history=folder, **settings), machine)


def number(resolution: Resolution) -> tuple[int | None, str]:
    decision = resolution.plan.decisions[0]
    assert not isinstance(decision.value, bool)
    return decision.value, decision.binding


def test_a_count_that_memory_forced_is_the_next_runs_start_and_grows_back(tmp_path: Path) -> None:
    first = resolved(tmp_path)
    planned, _ = number(first)
    assert planned is not None and planned > 3
    conclude(first, NAMED, ended_on=planned - 2, shed=True)
    seen = []
    for _ in range(4):
        run = resolved(tmp_path)
        seen.append(number(run))
        conclude(run, NAMED, ended_on=number(run)[0] or 0, shed=False)
    assert seen[:2] == [(planned - 2, "history"), (planned - 1, "history")]
    assert seen[2][0] == planned and seen[2][1] != "history"


def test_an_undisturbed_run_keeps_nothing(tmp_path: Path) -> None:
    run = resolved(tmp_path)
    conclude(run, NAMED, ended_on=1, shed=False)
    assert list(tmp_path.rglob("*.json")) == []


def test_another_job_knows_nothing_and_off_is_off(tmp_path: Path) -> None:
    run = resolved(tmp_path)
    conclude(run, NAMED, ended_on=1, shed=True)
    assert number(resolved(tmp_path, {**NAMED, "per_device_train_batch_size": 4}))[1] != "history"
    assert number(resolved(tmp_path, history_off=True))[1] != "history"
    assert number(resolved(tmp_path)) == (1, "history")
    off = dataclasses.replace(run, settings=Settings(history=tmp_path / "other", history_off=True))
    conclude(off, NAMED, ended_on=1, shed=True)
    assert not (tmp_path / "other").exists()


def test_a_modality_that_is_said_changes_the_number_with_its_label(tmp_path: Path) -> None:
    text = {**NAMED, "template": "qwen"}
    looked = resolved(tmp_path, text)
    said = resolved(tmp_path, text, modality="video")
    assert said.workload.modality_source == "LF_AUTOWORKERS_MODALITY=video"
    assert said.workload.batch_bytes > looked.workload.batch_bytes
    assert (number(said)[0] or 0) > (number(looked)[0] or 0)
    assert resolved(tmp_path, modality="text").workload.batch_bytes < resolved(tmp_path).workload.batch_bytes


def test_no_home_folder_costs_nothing_but_the_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)  # a container's user without a name; no such user can be made here
    machine = Machine.load(MACHINES / "h100_mig_half")
    assert number(resolve(NAMED, OWNED, Settings(), machine)) == number(resolved(tmp_path))


def test_a_relative_state_folder_is_ignored() -> None:
    assert default_folder({"XDG_STATE_HOME": "state"}) == Path.home() / ".local" / "state" / "lf-autoworkers"
    assert default_folder({"XDG_STATE_HOME": "/state"}) == Path("/state/lf-autoworkers")


@pytest.mark.parametrize(
    ("environ", "main"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "RANK": "2", "WORLD_SIZE": "4"}, True),
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "RANK": "3", "WORLD_SIZE": "4"}, False),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, False),  # LLaMA-Factory under Ray
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "1", "WORLD_SIZE": "2"}, False),
        ({"SLURM_LOCALID": "1"}, True),  # one process in a batch step
    ],
)
def test_one_rank_of_a_node_speaks(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], main: bool) -> None:
    for name in list(os.environ):
        if "RANK" in name or "WORLD_SIZE" in name or name.startswith(("SLURM", "OMPI")):
            monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert is_main_rank() is main
