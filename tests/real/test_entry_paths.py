"""Every way an ``auto`` can reach LLaMA-Factory's parsers, on the real parsers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lf_autoworkers.demo import write_config
from tests.lab import Lab, Outcome

pytestmark = pytest.mark.real

SCRIPT = Path(__file__).with_name("entry_paths.py")


def parse_all(lab: Lab, **environ: str | None) -> tuple[dict[str, Any], Outcome]:
    values = lab.values("text", max_steps=4)
    (lab.scratch / "base.json").write_text(json.dumps(values))
    write_config(lab.scratch / "base.yaml", values)
    outcome = lab.run([sys.executable, SCRIPT, lab.scratch / "base.json"], 240, **environ)
    assert outcome.code == 0, outcome.text[-3000:]
    found: dict[str, Any] = json.loads(outcome.text.rpartition("@@")[2])
    return found, outcome


@pytest.fixture(scope="module")
def parsed(lab_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Outcome]:
    """Every case, on a node of 4 CPUs."""
    lab = Lab(lab_folder, tmp_path_factory.mktemp("entry"))
    return parse_all(lab, LF_AUTOWORKERS_CPUS="4")


@pytest.mark.parametrize(
    "case",
    ["yaml", "flags", "flags with equals", "dashed flags", "dict", "odd case and blanks", "web ui"],
)
def test_auto_in_both_keys_becomes_numbers(parsed: tuple[dict[str, Any], Outcome], case: str) -> None:
    assert parsed[0][case] == {"preprocessing": None, "dataloader": 1, "prefetch": None, "persistent": False}


def test_a_number_stays_beside_an_auto(parsed: tuple[dict[str, Any], Outcome]) -> None:
    found, _ = parsed
    assert found["yaml and key=auto"]["preprocessing"] == 2
    assert found["yaml and key=auto"]["dataloader"] == 1
    assert found["number beside auto"]["dataloader"] == 3
    assert found["numbers"]["dataloader"] == 3
    assert found["numbers"]["preprocessing"] == 2
    assert found["abbreviated flag"]["dataloader"] == 1


@pytest.mark.parametrize("case", ["typo", "typo in flags"])
def test_a_typo_stops_with_the_name_of_the_key(parsed: tuple[dict[str, Any], Outcome], case: str) -> None:
    key = "dataloader_num_workers" if case == "typo" else "preprocessing_num_workers"
    assert parsed[0][case] == {"ours": f"ConfigError: {key}: 'atuo' is no worker count; write auto or a whole number."}


def test_streaming_never_gets_0_workers(parsed: tuple[dict[str, Any], Outcome]) -> None:
    assert parsed[0]["streaming"]["dataloader"] >= 1
    assert parsed[0]["streaming"]["preprocessing"] is None


def test_ppo_is_said_to_ignore_the_number_and_drops_its_prefetch(parsed: tuple[dict[str, Any], Outcome]) -> None:
    found, outcome = parsed
    assert (found["ppo"]["dataloader"], found["ppo"]["prefetch"]) == (0, None)
    assert "PPO's trainer builds its own loader and ignores this number" in outcome.text


def test_the_users_prefetch_is_kept(parsed: tuple[dict[str, Any], Outcome]) -> None:
    assert parsed[0]["own prefetch"]["prefetch"] == 3
    assert parsed[0]["own prefetch"]["persistent"] is True


def test_export_takes_the_key_and_uses_nothing(parsed: tuple[dict[str, Any], Outcome]) -> None:
    assert parsed[0]["export"] is None


def test_v1_resolves_its_own_key(parsed: tuple[dict[str, Any], Outcome]) -> None:
    assert parsed[0]["v1 dict"] == parsed[0]["v1 flags"] == 1
    assert parsed[0]["v1 number"] == 5


def test_nothing_of_the_callers_is_changed(parsed: tuple[dict[str, Any], Outcome]) -> None:
    assert parsed[0]["caller's dict unchanged"] is True
    assert parsed[0]["same objects without auto"] == [True, True]
    assert parsed[0]["another parser's auto"] == "auto"


def test_each_run_of_a_process_arms_what_it_asked_for(parsed: tuple[dict[str, Any], Outcome]) -> None:
    text, stream, nothing = [True, False, True], [True, True, True], [False, False, False]
    assert parsed[0]["one process, several runs"] == [text, stream, text, nothing, text, text]


def test_the_environment_forces_each_number(lab: Lab) -> None:
    found, outcome = parse_all(
        lab, LF_AUTOWORKERS_DATALOADER_NUM_WORKERS="7", LF_AUTOWORKERS_PREPROCESSING_NUM_WORKERS="3"
    )
    assert (found["yaml"]["dataloader"], found["yaml"]["preprocessing"]) == (7, 3)
    assert found["numbers"] == {"preprocessing": 2, "dataloader": 3, "prefetch": None, "persistent": False}
    line = "dataloader_num_workers: auto -> 7 per rank <- environment: LF_AUTOWORKERS_DATALOADER_NUM_WORKERS=7"
    assert line in outcome.text.splitlines()[0] or line in outcome.text
    assert (
        "LF_AUTOWORKERS_DATALOADER_NUM_WORKERS=7 is ignored: the config says dataloader_num_workers: 3." in outcome.text
    )


def test_disabled_means_llamafactorys_own_defaults(lab: Lab) -> None:
    found, outcome = parse_all(lab, LF_AUTOWORKERS_DISABLE="1")
    assert (found["yaml"]["dataloader"], found["yaml"]["preprocessing"]) == (0, None)
    assert found["streaming"]["dataloader"] == 1
    assert found["own prefetch"]["prefetch"] is None
    assert found["v1 dict"] == 16
    assert "autoworkers" not in outcome.text.replace("lf-autoworkers", "").partition("@@")[0]
