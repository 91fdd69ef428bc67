from __future__ import annotations

from pathlib import Path

import pytest

from lf_autoworkers.hardware.facts import MemoryLevel
from lf_autoworkers.hardware.memory import read_memory
from lf_autoworkers.units import GIB, MIB

from .fake import fake_machine, v1_machine, v2_machine

NO_LIMIT = "9223372036854771712\n"  # 4 KiB pages
NO_LIMIT_64K = "9223372036854710272\n"  # 64 KiB pages


def v2_stat(inactive: int = 0, active: int = 0, dirty: int = 0, writeback: int = 0) -> str:
    return (
        f"anon 1\nfile {inactive + active}\nfile_dirty {dirty}\nfile_writeback {writeback}\n"
        f"inactive_anon 0\nactive_anon 0\ninactive_file {inactive}\nactive_file {active}\n"
    )


def v1_stat(
    inactive: int = 0, active: int = 0, dirty: int = 0, writeback: int = 0, hierarchical: str = NO_LIMIT
) -> str:
    # The values without "total_" are this cgroup's alone and must not be taken.
    return (
        f"cache 7\nrss 7\ndirty 1\nwriteback 1\ninactive_file 1\nactive_file 1\n"
        f"hierarchical_memory_limit {hierarchical.strip()}\ntotal_dirty {dirty}\ntotal_writeback {writeback}\n"
        f"total_inactive_file {inactive}\ntotal_active_file {active}\n"
    )


def test_v2_use_leaves_out_cache_but_not_what_must_be_written(tmp_path: Path) -> None:
    files = {
        "memory.max": f"{8 * GIB}\n",
        "memory.current": f"{6 * GIB}\n",
        "memory.stat": v2_stat(2 * GIB, GIB, 256 * MIB, 128 * MIB),
    }
    facts = read_memory(v2_machine(tmp_path, files))

    assert facts.levels == (MemoryLevel(8 * GIB, 3 * GIB + 384 * MIB, "/sys/fs/cgroup/memory.max"),)
    assert facts.limit == (8 * GIB, "/sys/fs/cgroup/memory.max")
    assert facts.headroom == (5 * GIB - 384 * MIB, "/sys/fs/cgroup/memory.max")


@pytest.mark.parametrize(
    ("stat", "used"), [(v2_stat(3 * GIB, 3 * GIB), 0), (v2_stat(MIB, 0, 5 * MIB, 5 * MIB), GIB), ("", GIB)]
)
def test_use_stays_between_nothing_and_all_that_is_charged(tmp_path: Path, stat: str, used: int) -> None:
    files = {"memory.max": f"{8 * GIB}\n", "memory.current": f"{GIB}\n", "memory.stat": stat}

    assert read_memory(v2_machine(tmp_path, files)).levels[0].used_bytes == used


@pytest.mark.parametrize(
    ("high", "limit", "name"),
    [("max", 8 * GIB, "memory.max"), (f"{6 * GIB}", 6 * GIB, "memory.high"), (f"{9 * GIB}", 8 * GIB, "memory.max")],
)
def test_the_lower_of_max_and_high_counts(tmp_path: Path, high: str, limit: int, name: str) -> None:
    files = {"memory.max": f"{8 * GIB}\n", "memory.high": f"{high}\n", "memory.current": "0\n"}

    assert read_memory(v2_machine(tmp_path, files)).limit == (limit, f"/sys/fs/cgroup/{name}")


def test_high_alone_is_a_limit(tmp_path: Path) -> None:
    files = {"memory.max": "max\n", "memory.high": f"{6 * GIB}\n", "memory.current": f"{GIB}\n"}

    assert read_memory(v2_machine(tmp_path, files)).headroom == (5 * GIB, "/sys/fs/cgroup/memory.high")


def test_every_level_counts_with_its_own_use(tmp_path: Path) -> None:
    files = {
        "pod/box/memory.max": f"{10 * GIB}\n",
        "pod/box/memory.current": f"{GIB}\n",
        "pod/memory.max": f"{12 * GIB}\n",
        "pod/memory.current": f"{9 * GIB}\n",
        "memory.stat": v2_stat(),  # the root of the hierarchy has no limit and no count
    }
    facts = read_memory(v2_machine(tmp_path, files, "/pod/box"))

    assert [(level.limit_bytes, level.used_bytes) for level in facts.levels] == [
        (10 * GIB, GIB),
        (12 * GIB, 9 * GIB),
    ]
    assert facts.limit == (10 * GIB, "/sys/fs/cgroup/pod/box/memory.max")
    assert facts.headroom == (3 * GIB, "/sys/fs/cgroup/pod/memory.max")


def test_an_unlimited_level_is_kept_without_a_limit(tmp_path: Path) -> None:
    facts = read_memory(v2_machine(tmp_path, {"memory.max": "max\n", "memory.current": "4096\n"}))

    assert facts.levels == (MemoryLevel(None, 4096, "/sys/fs/cgroup/memory.max"),)
    assert facts.limit is None
    assert facts.headroom is None


def test_v1_takes_the_totals(tmp_path: Path) -> None:
    files = {
        "memory/a/memory.limit_in_bytes": f"{4 * GIB}\n",
        "memory/a/memory.usage_in_bytes": f"{3 * GIB}\n",
        "memory/a/memory.stat": v1_stat(GIB, 512 * MIB, 64 * MIB, 64 * MIB, f"{4 * GIB}"),
        "memory/memory.limit_in_bytes": NO_LIMIT,
        "memory/memory.usage_in_bytes": f"{9 * GIB}\n",
        "memory/memory.stat": v1_stat(),
    }
    facts = read_memory(v1_machine(tmp_path, files, "/a"))

    assert facts.levels == (
        MemoryLevel(4 * GIB, GIB + 640 * MIB, "/sys/fs/cgroup/memory/a/memory.limit_in_bytes"),
        MemoryLevel(None, 9 * GIB, "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    )
    assert facts.oom_group is None


@pytest.mark.parametrize("text", [NO_LIMIT, NO_LIMIT_64K, "9223372036854775807\n"])
def test_v1_has_several_ways_to_say_no_limit(tmp_path: Path, text: str) -> None:
    files = {"memory/memory.limit_in_bytes": text, "memory/memory.usage_in_bytes": "1\n"}

    assert read_memory(v1_machine(tmp_path, files)).limit is None


def test_a_v1_parent_out_of_sight_is_found_through_the_leaf(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": NO_LIMIT,
        "memory/memory.usage_in_bytes": f"{3 * GIB}\n",
        "memory/memory.stat": v1_stat(GIB, 0, 0, 0, f"{5 * GIB}"),
    }
    facts = read_memory(v1_machine(tmp_path, files))
    source = "hierarchical_memory_limit in /sys/fs/cgroup/memory/memory.stat"

    assert facts.levels[-1] == MemoryLevel(5 * GIB, 2 * GIB, source)
    assert facts.headroom == (3 * GIB, source)


def test_a_v1_parent_in_sight_is_not_counted_twice(tmp_path: Path) -> None:
    files = {
        "memory/a/memory.limit_in_bytes": NO_LIMIT,
        "memory/a/memory.usage_in_bytes": "1\n",
        "memory/a/memory.stat": v1_stat(hierarchical=f"{5 * GIB}"),
        "memory/memory.limit_in_bytes": f"{5 * GIB}\n",
        "memory/memory.usage_in_bytes": "2\n",
        "memory/memory.stat": v1_stat(hierarchical=f"{5 * GIB}"),
    }

    assert [level.limit_bytes for level in read_memory(v1_machine(tmp_path, files, "/a")).levels] == [None, 5 * GIB]


@pytest.mark.parametrize(("own", "parent", "expected"), [("0", "0", False), ("1", "0", True), ("0", "1", True)])
def test_oom_group_counts_at_any_level(tmp_path: Path, own: str, parent: str, expected: bool) -> None:
    files = {"a/memory.oom.group": f"{own}\n", "memory.oom.group": f"{parent}\n"}

    assert read_memory(v2_machine(tmp_path, files, "/a")).oom_group is expected


def test_the_host_comes_from_meminfo(tmp_path: Path) -> None:
    text = (
        "MemTotal:       16384000 kB\nMemFree:          100 kB\nMemAvailable:    8192000 kB\nSwapFree:   999999999 kB\n"
    )
    facts = read_memory(fake_machine(tmp_path, {"/proc/meminfo": text}, memory=(1, 1), own_bytes=5))

    assert (facts.total_bytes, facts.available_bytes) == (16384000 * 1024, 8192000 * 1024)
    assert facts.host_source == "/proc/meminfo"
    assert facts.own_bytes == 5


def test_without_meminfo_the_host_comes_from_psutil(tmp_path: Path) -> None:
    facts = read_memory(fake_machine(tmp_path, system="Darwin", memory=(36 * GIB, 20 * GIB)))

    assert (facts.total_bytes, facts.available_bytes, facts.host_source) == (
        36 * GIB,
        20 * GIB,
        "psutil.virtual_memory()",
    )


def test_nothing_known_is_none(tmp_path: Path) -> None:
    machine = fake_machine(tmp_path)
    facts = read_memory(machine)

    assert (facts.total_bytes, facts.available_bytes, facts.levels, facts.limit) == (None, None, (), None)
    assert machine.problems == []


def test_an_old_kernel_without_memavailable_knows_the_total_only(tmp_path: Path) -> None:
    facts = read_memory(fake_machine(tmp_path, {"/proc/meminfo": "MemTotal:       1024 kB\nMemFree:        10 kB\n"}))

    assert (facts.total_bytes, facts.available_bytes) == (MIB, None)


def test_an_unreadable_count_is_none_and_a_problem(tmp_path: Path) -> None:
    machine = v2_machine(tmp_path, {"memory.max": f"{GIB}\n"})
    (tmp_path / "sys/fs/cgroup/memory.current").mkdir()  # a directory cannot be read as a file, by root either
    facts = read_memory(machine)

    assert facts.levels == (MemoryLevel(GIB, None, "/sys/fs/cgroup/memory.max"),)
    assert machine.problems == ["/sys/fs/cgroup/memory.current cannot be read: Is a directory."]


def test_garbage_everywhere_is_a_problem_each(tmp_path: Path) -> None:
    files = {"memory.max": "lots\n", "memory.high": "", "memory.current": "4096\n", "memory.stat": "anon\n"}
    machine = v2_machine(tmp_path, files)
    facts = read_memory(machine)

    assert facts.levels == (MemoryLevel(None, 4096, "/sys/fs/cgroup/memory.max"),)
    assert machine.problems == [
        "/sys/fs/cgroup/memory.max holds 'lots', which could not be understood.",
        "/sys/fs/cgroup/memory.high holds '', which could not be understood.",
        "/sys/fs/cgroup/memory.stat holds 'anon', which could not be understood.",
    ]


def test_a_meminfo_of_garbage_is_a_problem(tmp_path: Path) -> None:
    machine = fake_machine(tmp_path, {"/proc/meminfo": "MemTotal: much\n"})

    assert read_memory(machine).total_bytes is None
    assert machine.problems == [
        "/proc/meminfo holds 'MemTotal: much', which could not be understood.",
        "/proc/meminfo holds no MemTotal.",
    ]
