"""The guard against the real kernel, each scenario once. The whole matrix: benchmarks/guard_matrix.py."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from . import guard_scenarios as scenarios
from .boxes import unavailable

REASON = unavailable()
pytestmark = [
    pytest.mark.long,
    pytest.mark.real,
    pytest.mark.cgroup,
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
]


@pytest.mark.parametrize("on_parent", [False, True], ids=["own", "parent"])
def test_where_eight_fixed_workers_die_eight_guarded_ones_finish(tmp_path: Path, on_parent: bool) -> None:
    scenarios.eight_workers(tmp_path, on_parent)


@pytest.mark.parametrize("rate_mb_s", [200, 500])
def test_workers_that_leak(tmp_path: Path, rate_mb_s: int) -> None:
    scenarios.leak(tmp_path, rate_mb_s)


def test_huge_samples(tmp_path: Path) -> None:
    scenarios.huge_samples(tmp_path)


def test_a_neighbour_comes_and_goes(tmp_path: Path) -> None:
    scenarios.neighbour(tmp_path, regrow_s=4.0)


def test_page_cache_is_no_alarm(tmp_path: Path) -> None:
    scenarios.page_cache(tmp_path)


def test_four_ranks_shed_one_worker(tmp_path: Path) -> None:
    scenarios.four_ranks(tmp_path)


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="needs root and unshare(1)")
def test_a_small_dev_shm(tmp_path: Path) -> None:
    scenarios.small_shm(tmp_path)
