"""The page ``explain`` prints for every saved machine and three typical runs, as reviewed by eye.

``UPDATE_GOLDEN=1 pytest tests/golden`` writes them anew; the difference is then reviewed as sentences.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lf_autoworkers.plan.explain import explain_text
from tests.golden.cases import NAMES, RUNS, plan_of

PAGES = Path(__file__).parent / "pages"


@pytest.mark.parametrize("run", list(RUNS))
@pytest.mark.parametrize("name", NAMES)
def test_explanation_is_the_reviewed_one(name: str, run: str) -> None:
    page = explain_text(*plan_of(name, run))
    path = PAGES / f"{name}-{run}.txt"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(page, encoding="utf-8")
    assert page == path.read_text(encoding="utf-8")


def test_no_page_without_its_machine() -> None:
    assert {path.stem for path in PAGES.iterdir()} == {f"{name}-{run}" for name in NAMES for run in RUNS}
