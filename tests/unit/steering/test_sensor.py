"""The sensor on machines that are directories: both cgroup versions, nested limits, missing and vanishing files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lf_autoworkers.hardware.facts import MemoryLevel, ShmFacts
from lf_autoworkers.steering.guard import ActKind, Guard
from lf_autoworkers.steering.limits import PressureLevel
from lf_autoworkers.steering.readings import LoaderView
from lf_autoworkers.steering.sensor import Sensor
from lf_autoworkers.units import GIB, MIB

from .machine import NO_V1_LIMIT, V1_MOUNT, V2_MOUNT, host, process, v1_level, v2_level, write

ROOT = "/sys/fs/cgroup"


def sensor(root: Path, **options: int) -> Sensor:
    return Sensor(root, pid=1, read_shm=lambda: (64 * MIB, 10 * MIB), **options)


def v2_machine(root: Path, *levels: dict[str, object], own: str = "/job/step") -> None:
    write(root, {**host(), "/proc/self/cgroup": f"0::{own}", "/proc/self/mountinfo": V2_MOUNT.strip()})
    for level in levels:
        write(root, level)


def test_v2_every_level_above_counts(tmp_path: Path) -> None:
    v2_machine(
        tmp_path,
        v2_level(f"{ROOT}/job/step", 8 * GIB, 3 * GIB, oom_kills=2),
        v2_level(f"{ROOT}/job", 4 * GIB, 3 * GIB + GIB // 2, cache=GIB),
    )
    reading = sensor(tmp_path).read(0.0, {})

    assert reading.levels == (
        MemoryLevel(8 * GIB, 3 * GIB, f"{ROOT}/job/step/memory.max"),
        MemoryLevel(4 * GIB, 2 * GIB + GIB // 2, f"{ROOT}/job/memory.max"),
        MemoryLevel(24 * GIB, 4 * GIB, "/proc/meminfo"),
    )
    assert reading.tightest is not None
    assert reading.tightest.source == f"{ROOT}/job/memory.max"
    assert reading.oom_kills == 2
    assert reading.limit_hits == 6
    assert reading.shm == ShmFacts(64 * MIB, 10 * MIB, "/dev/shm")


def test_v1_and_hybrid(tmp_path: Path) -> None:
    own = f"{ROOT}/memory/job"
    write(tmp_path, {**host(), "/proc/self/cgroup": "4:memory:/job\n0::/elsewhere"})
    write(tmp_path, {"/proc/self/mountinfo": V1_MOUNT + V2_MOUNT.replace("/sys/fs/cgroup", f"{ROOT}/unified").strip()})
    write(tmp_path, v1_level(own, 2 * GIB, GIB, cache=GIB // 2, oom_kills=1))
    write(tmp_path, v1_level(f"{ROOT}/memory", NO_V1_LIMIT, 5 * GIB))
    reading = sensor(tmp_path).read(0.0, {})

    assert reading.levels[0] == MemoryLevel(2 * GIB, GIB // 2, f"{own}/memory.limit_in_bytes")
    assert len(reading.levels) == 2, "the level without a limit cannot kill anybody"
    assert reading.oom_kills == 1
    assert reading.limit_hits == 14


def test_a_limit_set_while_the_run_lasts_is_seen(tmp_path: Path) -> None:
    v2_machine(tmp_path, v2_level(f"{ROOT}/job/step", "max", GIB))
    watching = sensor(tmp_path)
    assert len(watching.read(0.0, {}).levels) == 1
    write(tmp_path, v2_level(f"{ROOT}/job/step", 2 * GIB, GIB))
    assert len(watching.read(60.0, {}).levels) == 2


def test_a_cgroup_full_of_cache_is_empty(tmp_path: Path) -> None:
    v2_machine(tmp_path, v2_level(f"{ROOT}/job/step", 2 * GIB, 2 * GIB - MIB, cache=GIB + GIB // 2))
    reading = sensor(tmp_path).read(0.0, {})
    assert reading.levels[0].headroom_bytes == GIB + GIB // 2 + MIB

    guard = Guard()
    view = LoaderView(wanted=4, target=4, live=(5, 6, 7, 8), steps=10, warm=True)
    verdict = guard.step(reading, view)
    assert verdict.level is PressureLevel.NORMAL
    assert verdict.act.kind is ActKind.HOLD


def test_counters_that_vanish_are_unknown(tmp_path: Path) -> None:
    v2_machine(tmp_path, v2_level(f"{ROOT}/job/step", 2 * GIB, GIB))
    watching = sensor(tmp_path)
    assert watching.read(0.0, {}).levels[0].headroom_bytes == GIB
    shutil.rmtree(tmp_path / "sys")
    (tmp_path / "proc/meminfo").unlink()
    (tmp_path / "proc/1/status").unlink()
    reading = watching.read(1.0, {77: 3})

    assert reading.levels == ()
    assert reading.seen == ()
    assert reading.oom_kills is None
    assert reading.trainer_bytes is None
    assert reading.workers == ()


def test_a_usage_that_cannot_be_read_is_no_use_of_zero(tmp_path: Path) -> None:
    v2_machine(tmp_path, v2_level(f"{ROOT}/job/step", 2 * GIB, GIB))
    (tmp_path / "sys/fs/cgroup/job/step/memory.current").unlink()
    level = sensor(tmp_path).read(0.0, {}).levels[0]
    assert level.used_bytes is None
    assert level.headroom_bytes is None


@pytest.mark.parametrize("text", ["", "some avg10=x avg60=0\n", "garbage", "some\n"])
def test_an_unreadable_psi_is_unknown(tmp_path: Path, text: str) -> None:
    v2_machine(tmp_path)
    write(tmp_path, {"/proc/pressure/memory": text})
    reading = sensor(tmp_path).read(0.0, {})
    assert reading.psi_some_percent is None
    assert reading.psi_full_percent is None


def test_psi_of_the_own_cgroup_goes_first(tmp_path: Path) -> None:
    v2_machine(tmp_path, v2_level(f"{ROOT}/job/step", 2 * GIB, GIB))
    write(tmp_path, {"/proc/pressure/memory": "some avg10=1.00 avg60=0\nfull avg10=2.00 avg60=0"})
    assert sensor(tmp_path).read(0.0, {}).psi_full_percent == 2.0
    write(tmp_path, {f"{ROOT}/job/step/memory.pressure": "some avg10=30.50 avg60=0\nfull avg10=4.00 avg60=0"})
    reading = sensor(tmp_path).read(0.0, {})
    assert (reading.psi_some_percent, reading.psi_full_percent) == (30.5, 4.0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_forbidden_file_is_a_problem_said_once(tmp_path: Path) -> None:
    v2_machine(tmp_path, v2_level(f"{ROOT}/job/step", 2 * GIB, GIB))
    (tmp_path / "sys/fs/cgroup/job/step/memory.current").chmod(0)
    watching = sensor(tmp_path)
    watching.read(0.0, {})
    watching.read(1.0, {})
    assert len(watching.problems) == 1


def test_a_directory_in_place_of_a_file_is_a_problem_said_once(tmp_path: Path) -> None:
    v2_machine(tmp_path, v2_level(f"{ROOT}/job/step", 2 * GIB, GIB))
    current = tmp_path / "sys/fs/cgroup/job/step/memory.current"
    current.unlink()
    current.mkdir()
    watching = sensor(tmp_path)
    watching.read(0.0, {})
    watching.read(1.0, {})
    assert len(watching.problems) == 1
    assert "memory.current" in watching.problems[0]


def test_a_granted_limit_counts_trainer_and_workers_only(tmp_path: Path) -> None:
    v2_machine(tmp_path)
    write(tmp_path, process(20, anonymous=GIB))
    watching = sensor(tmp_path, memory_limit_bytes=8 * GIB, ranks=2)
    watching.read(0.0, {20: 4})
    write(tmp_path, process(20, anonymous=GIB + 100 * MIB, private=100 * MIB))
    reading = watching.read(1.0, {20: 4})
    assert reading.levels[-1] == MemoryLevel(4 * GIB, GIB + 100 * MIB, "LF_AUTOWORKERS_MEMORY_LIMIT")


def test_a_worker_costs_what_it_has_grown_by_since_it_was_forked(tmp_path: Path) -> None:
    v2_machine(tmp_path)
    write(tmp_path, process(20, anonymous=GIB))
    watching = sensor(tmp_path)
    assert watching.read(0.0, {20: 0}).workers[0].private_bytes == 0
    # It holds 200 MiB of its own now, and has held 512 MiB in between.
    write(tmp_path, process(20, anonymous=GIB + 200 * MIB, private=200 * MIB, high_water=GIB + 512 * MIB))
    (worker,) = watching.read(0.5, {20: 4}).workers
    assert (worker.private_bytes, worker.peak_bytes, worker.batches) == (200 * MIB, 512 * MIB, 4)


def test_what_a_worker_copied_of_the_trainer_is_learned_from_one_and_assumed_of_all(tmp_path: Path) -> None:
    v2_machine(tmp_path)
    # 60 MiB of inherited pages have been written to: its own now, without any growth.
    write(tmp_path, process(20, anonymous=GIB, private=60 * MIB))
    watching = sensor(tmp_path)
    assert watching.read(0.0, {20: 0}).workers[0].private_bytes == 0
    assert watching.read(1.0, {20: 2}).workers[0].private_bytes == 60 * MIB
    write(tmp_path, process(20, anonymous=GIB + 5 * MIB, private=999 * MIB))
    write(tmp_path, process(21, anonymous=GIB))
    first, second = watching.read(1.5, {20: 2, 21: 0}).workers
    assert first.private_bytes == 65 * MIB, "the exact figure is dear and comes seldom"
    assert second.private_bytes == 60 * MIB


def test_the_trainers_peak_counts_from_the_first_reading(tmp_path: Path) -> None:
    v2_machine(tmp_path)
    write(tmp_path, process(1, anonymous=GIB, file=GIB // 4, high_water=9 * GIB))
    watching = sensor(tmp_path)
    assert watching.read(0.0, {}).trainer_peak_bytes == GIB, "9 GiB were there while the model was loaded"
    write(tmp_path, process(1, anonymous=GIB, file=GIB // 4, high_water=10 * GIB))
    assert watching.read(1.0, {}).trainer_peak_bytes == 10 * GIB - GIB // 4
