"""The command line, as a user meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lf_autoworkers.cli import main
from tests.lab import BIN, Lab

MACHINES = Path(__file__).parents[1] / "machines"


def explained(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
    assert main(["explain", *map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config whose dataset is a small text file, and an environment without variables of ours."""
    for name in list(os.environ):
        if name.startswith("LF_AUTOWORKERS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    rows = [{"messages": [], "videos": ["a.mp4"]}] * 5000
    (tmp_path / "clips.json").write_text(json.dumps(rows))
    columns = {"messages": "messages", "videos": "videos"}
    info = {"clips": {"file_name": "clips.json", "formatting": "sharegpt", "columns": columns}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    path = tmp_path / "run.yaml"
    path.write_text(
        f"stage: sft\ndo_train: true\ndataset: clips\ndataset_dir: {tmp_path}\ntemplate: qwen2_vl\n"
        "per_device_train_batch_size: 2\ndataloader_num_workers: auto\npreprocessing_num_workers: auto\n"
    )
    return path


def loader(found: dict[str, Any]) -> dict[str, Any]:
    decision = found["decisions"][0]
    assert decision["field"] == "dataloader_num_workers"
    return dict(decision)


def test_the_json_has_the_documented_shape(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, config)
    assert set(found) == {"facts", "decisions", "warnings", "yaml"}
    for decision in found["decisions"]:
        assert {"field", "value", "requested", "caps", "binding"} <= set(decision)
        assert all(set(cap) == {"name", "value", "because", "source", "room"} for cap in decision["caps"])
    assert found["yaml"]["dataloader_num_workers"] == loader(found)["value"]
    assert isinstance(found["facts"]["memory_limit_bytes"]["value"], int)
    assert all(fact["source"] for fact in found["facts"].values() if isinstance(fact, dict))


@pytest.mark.parametrize("name", sorted(path.name for path in MACHINES.iterdir() if path.is_dir()))
def test_any_saved_machine_answers(config: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    found = explained(capsys, config, "--machine", MACHINES / name)
    value = loader(found)["value"]
    assert all(cap["value"] >= value for cap in loader(found)["caps"])


def test_what_if_flags_replace_what_was_detected(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large: list[str | Path] = [config, "per_device_train_batch_size=8", "--cpus", "32", "--shm", "256GiB"]
    alone = explained(capsys, *large, "--memory", "512GiB")
    ranks = explained(capsys, *large, "--memory", "512GiB", "--ranks", "8")
    small = explained(capsys, *large, "--memory", "4GiB")
    assert (loader(alone)["value"], loader(alone)["binding"]) == (31, "cpu")
    assert (loader(ranks)["value"], loader(ranks)["binding"]) == (3, "cpu")
    assert loader(small)["binding"] == "memory"
    assert alone["facts"]["usable_cpus"] == {"value": 32.0, "source": "environment: LF_AUTOWORKERS_CPUS"}


def test_overrides_stand_before_or_behind_flags(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, config, "--cpus", "8", "preprocessing_num_workers=2", "streaming=true")
    assert loader(found)["requested"] == "auto"
    assert not any(decision["field"] == "preprocessing_num_workers" for decision in found["decisions"])
    assert found["facts"]["streaming"]["value"] is True


def test_the_override_in_force_is_shown(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LF_AUTOWORKERS_DATALOADER_NUM_WORKERS", "7")
    assert main(["explain", str(config)]) == 0
    page = capsys.readouterr().out
    assert "environment: LF_AUTOWORKERS_DATALOADER_NUM_WORKERS=7" in page
    assert "dataloader_num_workers: 7\n" in page


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["explain", "nowhere.yaml"], "There is no config file nowhere.yaml."),
        (["explain", "CONFIG", "--cpus", "none"], "--cpus 'none' is not allowed: it takes a number above 0"),
        (["explain", "CONFIG", "--memory", "lots"], "--memory 'lots' is not allowed: it takes a size such as 16GiB."),
        (["explain", "CONFIG", "--machine", "nowhere"], "nowhere"),
        (["explain", "CONFIG", "dataloader_num_workers=atuo"], "dataloader_num_workers: 'atuo' is no worker count"),
        (["report", "nowhere"], "nowhere"),
        (["patch", "status", "--path", "nowhere"], "nowhere"),
        (["run", "--", "no-such-command-here"], "There is no command 'no-such-command-here' on PATH"),
    ],
)
def test_errors_are_one_sentence_and_exit_1(
    config: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert main([str(config) if word == "CONFIG" else word for word in words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lf-autoworkers: ")
    assert error.count("\n") == 1
    assert sentence in error


@pytest.mark.parametrize("words", [[], ["explain"], ["explain", "a.yaml", "--wrong"], ["run"], ["dance"]])
def test_wrong_usage_exits_2(words: list[str]) -> None:
    try:
        code: object = main(words)
    except SystemExit as stop:
        code = stop.code
    assert code == 2


def test_help_lists_every_variable(capsys: pytest.CaptureFixture[str]) -> None:
    from lf_autoworkers.settings import VARIABLES

    with pytest.raises(SystemExit):
        main(["--help"])
    page = capsys.readouterr().out
    assert all(variable.name in page for variable in VARIABLES)


def test_a_config_without_auto_is_said_to_be_left_alone(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(config), "dataloader_num_workers=1", "preprocessing_num_workers=1"]) == 0
    assert "nothing is auto in this config: lf-autoworkers changes nothing." in capsys.readouterr().out


@pytest.mark.real
def test_explain_says_what_the_next_run_does(lab: Lab) -> None:
    config = lab.config("image", per_device_train_batch_size=4)
    told = lab.run(["lf-autoworkers", "explain", config, "--json"])
    assert told.code == 0, told.text
    outcome = lab.train(config)
    assert outcome.code == 0, outcome.text[-3000:]
    yaml = json.loads(told.text)["yaml"]
    assert {name: yaml[name] for name in outcome.decided} == outcome.decided
    said = {d["field"]: {cap["name"]: cap["value"] for cap in d["caps"]} for d in json.loads(told.text)["decisions"]}
    line = outcome.lines("dataloader_num_workers")[0].partition("| caps ")[2]
    logged = {name: int(value) for name, value in (pair.split("=") for pair in line.split())}
    steady = set(logged) - {"memory", "shm"}  # other programs of this machine may take or free some in between
    assert {name: logged[name] for name in steady} == {name: said["dataloader_num_workers"][name] for name in steady}


@pytest.mark.real
def test_doctor_proves_the_hook_and_names_what_stands_in_its_way(lab: Lab) -> None:
    well = lab.run(["lf-autoworkers", "doctor", "--json"])
    assert well.code == 0, well.text
    findings = {finding["what"]: finding for finding in json.loads(well.text)["findings"]}
    assert findings["hook"]["level"] == "ok"
    found, of, every, *_ = findings["seams"]["where"].split()
    assert (found, of) == (every, "of")
    sick = lab.run(["lf-autoworkers", "doctor"], TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert sick.code == 1
    assert "TORCH_DEVICE_BACKEND_AUTOLOAD=0" in sick.text
    assert "lf-autoworkers run -- " in sick.text


@pytest.mark.real
def test_doctor_wants_torchrun_of_the_same_environment(lab: Lab) -> None:
    other = lab.scratch / "other"
    other.mkdir()
    (other / "torchrun").write_text("#!/opt/elsewhere/bin/python\n")
    (other / "torchrun").chmod(0o755)
    outcome = lab.run([BIN / "lf-autoworkers", "doctor", "--json"], PATH=f"{other}:{BIN}:/usr/bin:/bin")
    assert outcome.code == 1
    findings = {finding["what"]: finding for finding in json.loads(outcome.text)["findings"]}
    assert findings["torchrun"]["level"] == "fail"
    assert str(BIN) in findings["torchrun"]["fix"]


def test_a_saved_machine_gives_the_live_answers(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--save-machine", str(tmp_path / "machine")]) == 0
    capsys.readouterr()
    live, saved = explained(capsys, config), explained(capsys, config, "--machine", tmp_path / "machine")
    assert live["yaml"] == saved["yaml"]
    assert main(["doctor", "--save-machine", str(tmp_path / "machine")]) == 1  # never over another


def test_output_into_a_closed_pipe_is_no_error(config: Path) -> None:
    line = f"{sys.executable} -m lf_autoworkers explain {config} | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, cwd=MACHINES.parents[1])
    assert done.stdout == "facts\n"
    assert "Traceback" not in done.stderr
