"""The guard against the real kernel, each scenario once: a few always, those that take longest by `pytest -m long`.

The whole matrix is benchmarks/guard_matrix.py.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from . import guard_scenarios as scenarios
from .boxes import unavailable

REASON = unavailable()
pytestmark = [
    pytest.mark.real,
    pytest.mark.cgroup,
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
]


LONG = pytest.mark.long


@pytest.mark.parametrize("on_parent", [pytest.param(False, id="own"), pytest.param(True, id="parent", marks=LONG)])
def test_where_eight_fixed_workers_die_eight_guarded_ones_finish(tmp_path: Path, on_parent: bool) -> None:
    scenarios.eight_workers(tmp_path, on_parent)


@pytest.mark.parametrize("rate_mb_s", [200, pytest.param(500, marks=LONG)])
def test_workers_that_leak(tmp_path: Path, rate_mb_s: int) -> None:
    scenarios.leak(tmp_path, rate_mb_s)


@LONG
def test_huge_samples(tmp_path: Path) -> None:
    scenarios.huge_samples(tmp_path)


@LONG
def test_a_neighbour_comes_and_goes(tmp_path: Path) -> None:
    scenarios.neighbour(tmp_path, regrow_s=4.0)


def test_page_cache_is_no_alarm(tmp_path: Path) -> None:
    scenarios.page_cache(tmp_path)


@LONG
def test_four_ranks_shed_one_worker(tmp_path: Path) -> None:
    scenarios.four_ranks(tmp_path)


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="needs root and unshare(1)")
def test_a_small_dev_shm(tmp_path: Path) -> None:
    scenarios.small_shm(tmp_path)
