from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lf_autoworkers.hardware.cpulist import format_cpulist, parse_cpulist


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0", {0}), ("0-3", {0, 1, 2, 3}), ("0-1,8,10-11\n", {0, 1, 8, 10, 11}), ("", set()), ("\n", set())],
)
def test_a_kernel_list_becomes_a_set(text: str, cpus: set[int]) -> None:
    assert parse_cpulist(text) == cpus


@pytest.mark.parametrize("text", ["banana", "0-", "-1", "3-1", "0,,1", "0-99999999999", "0;1", "1.5"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_cpulist(text)


@given(st.frozensets(st.integers(0, 500)))
def test_a_set_survives_being_written_and_read(cpus: frozenset[int]) -> None:
    assert parse_cpulist(format_cpulist(cpus)) == cpus


def test_runs_are_joined() -> None:
    assert format_cpulist({3, 0, 1, 7, 2}) == "0-3,7"
