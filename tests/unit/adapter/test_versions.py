"""The table of seams and of releases."""

from __future__ import annotations

import sys

import pytest

from lf_autoworkers.adapter.versions import RUN_WITH, SEAMS, is_known
from lf_autoworkers.elastic import installation


def test_every_internal_the_elastic_loader_checks_is_in_the_table() -> None:
    listed = {(seam.module, seam.attribute) for seam in SEAMS}
    for owner, names in installation._INTERNALS:
        for name in names:
            if owner is sys.modules["os"]:
                continue  # the system's, not a package's
            module = getattr(owner, "__module__", None) or owner.__name__
            attribute = f"{owner.__name__}.{name}" if hasattr(owner, "__module__") else name
            known = {(module, attribute), (module.rpartition(".")[0], f"{module.rpartition('.')[2]}.{attribute}")}
            known.add(("torch.utils.data", attribute))
            assert known & listed, (module, attribute)


@pytest.mark.parametrize("name", RUN_WITH)
def test_both_ends_of_what_was_run_are_known_and_what_lies_beyond_is_not(name: str) -> None:
    low, high = RUN_WITH[name]
    assert is_known(name, low)
    assert is_known(name, f"{high}+cpu")
    assert not is_known(name, "0.0.1")
    assert not is_known(name, "99.0")
