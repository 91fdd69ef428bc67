"""What each patch does to a real LLaMA-Factory 0.9.5, next to what the stock one does."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lf_autoworkers import patching
from lf_autoworkers.demo import write_config
from tests.lab import Lab
from tests.unit.patching import trees

pytestmark = pytest.mark.real

PROBE = Path(__file__).with_name("patching_probe.py")
#: TORCH_DEVICE_BACKEND_AUTOLOAD: keeps the plugin's own hook out, so that what is seen is the patches' doing.
OFF = "0"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories for PYTHONPATH: the installed 0.9.5 as it is, and a copy with all patches."""
    installed = trees.installed_pristine()
    if installed is None or installed[0] != "0.9.5":
        pytest.skip("the installed LLaMA-Factory is no pristine 0.9.5")
    folder = tmp_path_factory.mktemp("sources")
    for name in ("stock", "patched"):
        shutil.copytree(installed[1], folder / name / "llamafactory", ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_STATE_HOME", str(folder / "state"))
        patching.apply(path=folder / "patched")
    return {name: folder / name for name in ("stock", "patched")}


def probe(lab: Lab, sources: Path, *what: str) -> list[dict[str, Any]]:
    """Run the probes ``what`` in ``sources`` without the plugin's hook and return their reports."""
    numbers = {"preprocessing_num_workers": None, "dataloader_num_workers": None}
    (lab.scratch / "base.json").write_text(json.dumps(lab.values("text", use_cpu=True, **numbers)))
    outcome = lab.run(
        [sys.executable, PROBE, lab.scratch, *what], PYTHONPATH=str(sources), TORCH_DEVICE_BACKEND_AUTOLOAD=OFF
    )
    assert outcome.code == 0, outcome.text[-3000:]
    return [json.loads((lab.scratch / f"{one}-0.json").read_text()) for one in what]


@pytest.fixture(scope="module")
def found(
    lab_folder: Path, sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """{tree: {probe: its report}} of what one process can tell."""
    asked = ("fingerprints", "streaming", "configs")
    return {
        name: dict(zip(asked, probe(Lab(lab_folder, tmp_path_factory.mktemp(name)), folder, *asked), strict=True))
        for name, folder in sources.items()
    }


@pytest.mark.long
def test_json_config(found: dict[str, dict[str, Any]]) -> None:
    broken = "AttributeError: 'PosixPath' object has no attribute 'read'"
    assert found["stock"]["configs"] == {"v0": broken, "v1": broken}
    config = {"model": "m", "batching_workers": 4, "note": "日本"}
    assert found["patched"]["configs"] == {"v0": config, "v1": 4}


@pytest.mark.long
def test_fingerprint(found: dict[str, dict[str, Any]]) -> None:
    stock, patched = found["stock"]["fingerprints"], found["patched"]["fingerprints"]
    for stage in ("aligned", "tokenized"):
        assert len(set(stock[stage])) == 3
        # The one that did not name a number before, so that its caches stay valid.
        assert set(patched[stage]) == {stock[stage][0]}
    assert patched["kept"] == stock["kept"] == [None, 2, 3]


@pytest.mark.long
def test_streaming_on_one_rank(found: dict[str, dict[str, Any]]) -> None:
    stock, patched = found["stock"]["streaming"], found["patched"]["streaming"]
    some = {"rows": 240, "shards": 4, "workers": 4}
    assert stock["none"].startswith("StopIteration")
    assert stock["more than rows"].startswith("ValueError: Unable to shard a dataset of size 3 into 4 shards")
    assert stock["some"] == some
    assert stock["tokenized"]["shards"] == 1
    assert patched == {
        "none": {"rows": 240, "shards": 1, "workers": 0},
        "some": some,
        "more than rows": {"rows": 3, "shards": 3, "workers": 3},
        "tokenized": {"rows": 40, "shards": 4, "workers": 4},
    }


@pytest.mark.long
@pytest.mark.parametrize(
    ("tree", "three_workers"),
    [("stock", [{0: 80, 1: 80}, {0: 80}]), ("patched", [{0: 40, 1: 40, 2: 40}] * 2)],
)
def test_streaming_on_two_ranks(
    tree: str, three_workers: list[dict[int, int]], lab: Lab, sources: dict[str, Path]
) -> None:
    """Rows read by each worker of each of two ranks; no row is missing or read twice."""
    numbers = {"preprocessing_num_workers": None, "dataloader_num_workers": None}
    values = lab.values("text", use_cpu=True, bf16=False, **numbers)
    (lab.scratch / "base.json").write_text(json.dumps(values))
    outcome = lab.run(
        ["torchrun", "--standalone", "--nproc_per_node", "2", PROBE, lab.scratch, "shards"],
        PYTHONPATH=str(sources[tree]),
        OMP_NUM_THREADS="1",
        TORCH_DEVICE_BACKEND_AUTOLOAD=OFF,
    )
    assert outcome.code == 0, outcome.text[-3000:]
    reports = [json.loads((lab.scratch / f"shards-{rank}.json").read_text()) for rank in (0, 1)]
    texts = json.loads((Path(values["dataset_dir"]) / "text.json").read_text())
    for workers, expected in (("1", [{0: 120}] * 2), ("3", three_workers)):
        read = [report[workers] for report in reports]
        assert sorted(row for rank in read for _, row in rank) == sorted(text["instruction"] for text in texts)
        assert [Counter(worker for worker, _ in rank) for rank in read] == expected


@pytest.mark.long
def test_web_ui(lab: Lab, sources: dict[str, Path]) -> None:
    (patched,) = probe(lab, sources["patched"], "webui")
    for tab in ("train", "eval"):
        assert (patched[f"{tab} writes"], patched[f"{tab} previews"]) == ("auto", 1)
        assert patched[f"{tab} resolves"] == "None" or int(patched[f"{tab} resolves"]) > 0


@pytest.mark.long
def test_without_the_plugin_numbers_work_and_auto_stops(lab: Lab, sources: dict[str, Path]) -> None:
    (found,) = probe(lab, sources["patched"], "without-plugin")
    stop = "needs lf-autoworkers, which cannot be imported (No module named 'lf_autoworkers'): install it into this"
    assert found["numbers"] == [2, 3]
    assert found["list numbers"] == found["v1 numbers"] == 3
    assert found["dict"].startswith(f"SystemExit: `preprocessing_num_workers: auto` {stop}")
    assert found["list"] == found["equals"]
    assert found["list"].startswith(f"SystemExit: `dataloader_num_workers: auto` {stop}")
    assert found["v1"].startswith(f"SystemExit: `batching_workers: auto` {stop}")
    assert found["webui"] == 16


@pytest.mark.parametrize(("autoload", "ranks"), [(OFF, 2), (None, 1)])
def test_training_in_the_patched_tree(autoload: str | None, ranks: int, lab: Lab, sources: dict[str, Path]) -> None:
    """Through the patched parser alone, and with the plugin's hook active beside it: resolved, and said once."""
    outcome = lab.train(
        lab.config("text", max_steps=2),
        PYTHONPATH=str(sources["patched"]),
        LF_AUTOWORKERS_DATALOADER_NUM_WORKERS="2",
        LF_AUTOWORKERS_GUARD="off",  # two steps are over before it has let the second worker start
        TORCH_DEVICE_BACKEND_AUTOLOAD=autoload,
        FORCE_TORCHRUN="1" if ranks > 1 else None,
        NPROC_PER_NODE=str(ranks),
        OMP_NUM_THREADS="1",
    )
    assert outcome.code == 0, outcome.text[-3000:]
    for field in ("preprocessing_num_workers", "dataloader_num_workers"):
        assert len(outcome.lines(field)) == 1, outcome.text[-3000:]
    assert sorted(outcome.most_workers.values()) == [2] * ranks
    assert "is ignored" not in outcome.text


@pytest.mark.long
def test_training_without_the_plugin_stops_with_a_sentence(lab: Lab, sources: dict[str, Path]) -> None:
    write_config(lab.scratch / "base.yaml", lab.values("text"))
    outcome = lab.run(
        [sys.executable, PROBE, lab.scratch, "train-without-plugin"],
        PYTHONPATH=str(sources["patched"]),
        TORCH_DEVICE_BACKEND_AUTOLOAD=OFF,
    )
    assert outcome.code == 1
    assert "_num_workers: auto` needs lf-autoworkers" in outcome.text.splitlines()[-1]
    assert "Traceback" not in outcome.text


@pytest.mark.long
def test_the_children_really_ran_the_copies(lab: Lab, sources: dict[str, Path]) -> None:
    code = "import llamafactory; print(llamafactory.__file__)"
    for name, folder in sources.items():
        outcome = lab.run([sys.executable, "-c", code], PYTHONPATH=str(folder))
        assert outcome.text.strip().endswith(f"{name}{os.sep}llamafactory{os.sep}__init__.py")
