"""A release that lacks a seam trains with the static number, the same batches, and one line that says what is lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.lab import Lab, Outcome

pytestmark = pytest.mark.real

SAID = {
    "nothing": None,
    "Trainer.get_test_dataloader": "making the loaders elastic failed (AttributeError",
    "DataLoader._get_iterator": "PyTorch's own DataLoader iterator is kept everywhere: DataLoader._get_iterator is not",
    "MapDataPipe": "making the loaders elastic failed (ImportError",
    "_BaseDataLoaderIter": "making the loaders elastic failed (",
    "TrainerCallback": "starting the elastic loader and its guard failed (AttributeError",
    "pklregister": "keeping the dataset fingerprint failed (AttributeError",
    "DataArguments": "keeping the dataset fingerprint failed (ImportError",
    "Trainer.add_callback": "storing the count with checkpoints failed (TypeError",
}


@pytest.fixture(scope="module")
def outcomes(lab_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("seams")
    lab = Lab(lab_folder, folder)
    (folder / "values.json").write_text(json.dumps(lab.values("text", max_steps=3)))
    done = lab.run(
        [sys.executable, "-m", "tests.compat.missing_seams", folder / "values.json", folder],
        timeout_s=540,
        PYTHONPATH=str(REPOSITORY),
        LF_AUTOWORKERS_CPUS="4",
        LF_AUTOWORKERS_STRICT=None,
    )
    assert done.code == 0, done.text[-3000:]
    return {
        name: Outcome(int((folder / f"{name}.code").read_text()), (folder / f"{name}.log").read_text()) for name in SAID
    }


@pytest.mark.parametrize("seam", SAID)
def test_a_missing_seam_costs_one_line_and_no_run(outcomes: dict[str, Outcome], seam: str) -> None:
    outcome = outcomes[seam]
    assert outcome.code == 0, outcome.text[-3000:]
    assert len(outcome.lines("dataloader_num_workers")) == 1
    assert outcome.decided["dataloader_num_workers"] == outcomes["nothing"].decided["dataloader_num_workers"]
    said = [line for line in outcome.text.splitlines() if " failed (" in line or "iterator is kept" in line]
    assert len(said) == (0 if SAID[seam] is None else 1), said
    assert (SAID[seam] or "") in "".join(said)
    assert len(outcome.losses) == 3
    if seam != "Trainer.add_callback":  # that one streams, in another order
        assert outcome.losses == outcomes["nothing"].losses
