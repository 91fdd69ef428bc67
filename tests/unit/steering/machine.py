"""A machine as a directory: what the sensor's tests read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lf_autoworkers.units import GIB

NO_V1_LIMIT = 9223372036854771712
V2_MOUNT = "30 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1_MOUNT = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def write(root: Path, files: Mapping[str, object]) -> None:
    """Write `files` (absolute path -> content) below `root`."""
    for name, content in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def host(available: int = 20 * GIB, total: int = 24 * GIB) -> dict[str, object]:
    """Return /proc/meminfo and a trainer with pid 1."""
    return {
        "/proc/meminfo": f"MemTotal: {total // 1024} kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB",
        **process(1, anonymous=GIB, file=GIB // 4),
    }


def process(pid: int, *, anonymous: int, file: int = 0, private: int = 0, high_water: int = 0) -> dict[str, object]:
    """Return the files of one process."""
    resident = anonymous + file
    return {
        f"/proc/{pid}/status": (
            f"Name:\tpython\nVmHWM:\t{max(high_water, resident) // 1024} kB\nVmRSS:\t{resident // 1024} kB\n"
            f"RssAnon:\t{anonymous // 1024} kB\nRssFile:\t{file // 1024} kB\nRssShmem:\t0 kB"
        ),
        f"/proc/{pid}/statm": f"9999 {resident // 4096} 1 1 0 1 0",
        f"/proc/{pid}/smaps_rollup": (
            f"0-1 ---p 00000000 00:00 0 [rollup]\nRss: {resident // 1024} kB\nPrivate_Clean: 0 kB\n"
            f"Private_Dirty: {private // 1024} kB"
        ),
    }


def v2_level(path: str, limit: int | str, current: int, *, cache: int = 0, oom_kills: int = 0) -> dict[str, object]:
    """Return the files of one cgroup of version 2, `cache` being half active and half inactive."""
    return {
        f"{path}/memory.max": limit,
        f"{path}/memory.high": "max",
        f"{path}/memory.current": current,
        f"{path}/memory.stat": f"inactive_file {cache // 2}\nactive_file {cache // 2}\nfile_dirty 0\nfile_writeback 0",
        f"{path}/memory.events": f"low 0\nhigh 0\nmax 3\noom {oom_kills}\noom_kill {oom_kills}\noom_group_kill 0",
    }


def v1_level(path: str, limit: int, usage: int, *, cache: int = 0, oom_kills: int = 0) -> dict[str, object]:
    """Return the files of one cgroup of version 1."""
    return {
        f"{path}/memory.limit_in_bytes": limit,
        f"{path}/memory.usage_in_bytes": usage,
        f"{path}/memory.stat": (
            f"hierarchical_memory_limit {limit}\ntotal_inactive_file {cache // 2}\n"
            f"total_active_file {cache // 2}\ntotal_dirty 0\ntotal_writeback 0"
        ),
        f"{path}/memory.failcnt": 7,
        f"{path}/memory.oom_control": f"oom_kill_disable 0\nunder_oom 0\noom_kill {oom_kills}",
    }
