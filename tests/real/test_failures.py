"""Bad input ends in one sentence; a failure of ours never loses a run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.lab import Lab, Outcome

pytestmark = pytest.mark.real

BREAK = """
import sys
import lf_autoworkers.adapter.{module} as module
def broken(*args, **kwargs):
    raise RuntimeError("broken on purpose")
module.{name} = broken
from llamafactory.hparams import get_train_args
import json
parsed = get_train_args(json.loads(open(sys.argv[1]).read()))
print("@@", parsed[2].dataloader_num_workers, parsed[1].preprocessing_num_workers, parsed[2].dataloader_prefetch_factor)
"""


def ends_in_one_sentence(outcome: Outcome, sentence: str) -> None:
    assert outcome.code == 1
    assert "Traceback" not in outcome.text
    assert [line for line in outcome.text.splitlines() if line.startswith("lf-autoworkers: ")] == [
        f"lf-autoworkers: {sentence}"
    ]


@pytest.mark.parametrize(
    ("overrides", "environ", "sentence"),
    [
        (
            [],
            {"LF_AUTOWORKERS_DATALOADER_NUM_WORKERS": "many"},
            "LF_AUTOWORKERS_DATALOADER_NUM_WORKERS=many is not allowed: it takes a whole number from 0 to 1024.",
        ),
        (
            ["preprocessing_num_workers=atuo"],
            {},
            "preprocessing_num_workers: 'atuo' is no worker count; write auto or a whole number.",
        ),
    ],
    ids=["variable", "typo"],
)
def test_the_real_command_stops_with_one_sentence(
    lab: Lab, overrides: list[str], environ: dict[str, str], sentence: str
) -> None:
    ends_in_one_sentence(
        lab.run(["llamafactory-cli", "train", lab.config("text"), *overrides], 240, **environ), sentence
    )


def broken_run(lab: Lab, module: str, name: str, **environ: str | None) -> Outcome:
    import json

    values = lab.values("text", dataloader_prefetch_factor=4)
    (lab.scratch / "values.json").write_text(json.dumps(values))
    code = BREAK.format(module=module, name=name)
    return lab.run([sys.executable, "-c", code, lab.scratch / "values.json"], 240, **environ)


def test_if_resolving_breaks_llamafactorys_defaults_hold_and_one_warning_says_so(lab: Lab) -> None:
    outcome = broken_run(lab, "arguments", "resolve", LF_AUTOWORKERS_STRICT=None)
    assert outcome.code == 0, outcome.text
    assert "@@ 0 None None" in outcome.text
    assert outcome.text.count("resolving auto failed (RuntimeError: broken on purpose)") == 1
    assert "Traceback" not in outcome.text


def test_strict_makes_it_an_error(lab: Lab) -> None:
    outcome = broken_run(lab, "arguments", "resolve")
    ends_in_one_sentence(outcome, "Resolving auto failed (RuntimeError: broken on purpose).")


def test_a_part_of_the_run_that_fails_is_left_out_and_the_number_stands(lab: Lab) -> None:
    outcome = broken_run(lab, "mapping", "keep_fingerprint", LF_AUTOWORKERS_STRICT=None)
    assert outcome.code == 0, outcome.text
    assert "@@ 1 " in outcome.text
    assert outcome.text.count("keeping the dataset fingerprint failed") == 1


def test_without_auto_a_bad_variable_is_one_warning(lab: Lab, tmp_path: Path) -> None:
    import json

    values = lab.values("text", dataloader_num_workers=1, preprocessing_num_workers=1)
    (tmp_path / "values.json").write_text(json.dumps(values))
    code = "import sys, json\nfrom llamafactory.hparams import get_train_args as g\ng(json.load(open(sys.argv[1])))"
    outcome = lab.run([sys.executable, "-c", code, tmp_path / "values.json"], 240, LF_AUTOWORKERS_CPUS="none")
    assert outcome.code == 0, outcome.text
    assert outcome.text.count("LF_AUTOWORKERS_CPUS=none is not allowed: it takes a number above 0, at most 65536.") == 1
