"""Facts of a process inside cgroups that the kernel really enforces.

Each test makes its own cgroups (v1), starts a Python in them and compares the facts that Python finds about itself
with what was set, and with the files read from outside while it waits.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from lf_autoworkers.hardware import Hardware, Machine, detect_hardware
from lf_autoworkers.units import MIB

pytestmark = pytest.mark.cgroup

ROOT = Path("/sys/fs/cgroup")
CHILD = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from lf_autoworkers.hardware import Machine, detect_hardware, save_machine

block = bytearray(int(sys.argv[2]))
block[::4096] = b"x" * len(block[::4096])
for path in sys.argv[3:]:
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass
machine = Machine.live()
save_machine(Path(sys.argv[1]), machine)
print(json.dumps(asdict(detect_hardware(machine))), flush=True)
sys.stdin.read()
"""


def missing() -> str | None:
    """Return why these tests cannot run here."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    for controller in ("memory", "cpu", "cpuset", "pids"):
        if not os.access(ROOT / controller / "cgroup.procs", os.W_OK):
            return f"needs cgroup v1's {controller} controller, writable, at {ROOT / controller}"
    return None


REASON = missing()


class Cgroups:
    """Cgroups of one test, removed at its end."""

    def __init__(self) -> None:
        self._name = f"lf-autoworkers-test-{uuid.uuid4().hex[:12]}"
        self._made: list[Path] = []

    def make(self, controller: str, below: str = "", settings: Mapping[str, object] | None = None) -> Path:
        """Make this test's cgroup in ``controller`` (or ``below`` it) and write ``settings`` into its files."""
        directory = ROOT / controller / self._name / below
        directory.mkdir()
        self._made.append(directory)
        for name, value in (settings or {}).items():
            (directory / name).write_text(str(value))
        return directory

    def remove(self) -> None:
        deadline = time.monotonic() + 10
        for directory in reversed(self._made):
            while True:
                try:
                    directory.rmdir()
                    break
                except OSError:  # busy until the kernel has taken the last process out
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)


@pytest.fixture
def cgroups() -> Iterator[Cgroups]:
    if REASON is not None:
        pytest.skip(REASON)
    groups = Cgroups()
    yield groups
    groups.remove()


@contextlib.contextmanager
def asked_inside(
    saved: Path, *groups: Path, hold_bytes: int = 0, files: tuple[Path, ...] = ()
) -> Iterator[tuple[dict[str, Any], Hardware]]:
    """Yield the facts a process in ``groups`` found, and those read back from what it saved, while it still lives."""
    enter = "".join(f'echo $$ > "{group}/cgroup.procs" && ' for group in groups)
    command = ["sh", "-c", enter + 'exec "$@"', "sh", sys.executable, "-c", CHILD, str(saved), str(hold_bytes)]
    with subprocess.Popen(
        [*command, *map(str, files)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            pytest.fail(f"the process in the cgroup said nothing: {child.communicate(timeout=30)[1]}")
        try:
            yield json.loads(line), detect_hardware(Machine.load(saved))
        finally:
            child.communicate(timeout=30)


def as_json(hardware: Hardware) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(json.dumps(asdict(hardware)))
    return facts


def number(directory: Path, name: str) -> int:
    return int((directory / name).read_text())


def in_use_bytes(directory: Path) -> int:
    """What the kernel says from outside: all that is charged but the file cache."""
    stat = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
    return (
        number(directory, "memory.usage_in_bytes") - int(stat["total_inactive_file"]) - int(stat["total_active_file"])
    )


def test_limits_on_the_own_cgroup(cgroups: Cgroups, tmp_path: Path) -> None:
    memory = cgroups.make("memory", settings={"memory.limit_in_bytes": 256 * MIB})
    cpu = cgroups.make("cpu", settings={"cpu.cfs_quota_us": 50000, "cpu.cfs_period_us": 100000})
    pids = cgroups.make("pids", settings={"pids.max": 40})

    with asked_inside(tmp_path / "saved", memory, cpu, pids, hold_bytes=64 * MIB) as (facts, saved):
        assert as_json(saved) == facts
        assert saved.problems == ()
        assert saved.cpu.usable_cpus == 0.5
        assert saved.cpu.tightest.source == f"{cpu}/cpu.cfs_quota_us"
        assert saved.memory.limit == (256 * MIB, f"{memory}/memory.limit_in_bytes")
        used_bytes = saved.memory.levels[0].used_bytes
        assert used_bytes is not None
        assert abs(used_bytes - in_use_bytes(memory)) < 8 * MIB
        assert 64 * MIB < used_bytes < 128 * MIB
        # What the process itself holds is given back.
        assert 64 * MIB < saved.memory.own_bytes <= used_bytes + 4 * MIB
        assert saved.memory.headroom is not None
        assert abs(saved.memory.headroom[0] - 256 * MIB) < 16 * MIB
        assert (saved.limits.pids, saved.limits.pids_source) == (40 - 1, f"{pids}/pids.max")


def test_limits_on_the_parent(cgroups: Cgroups, tmp_path: Path) -> None:
    memory = cgroups.make("memory", settings={"memory.limit_in_bytes": 300 * MIB})
    cpu = cgroups.make("cpu", settings={"cpu.cfs_quota_us": 150000, "cpu.cfs_period_us": 100000})
    leaf, cpu_leaf = cgroups.make("memory", "leaf"), cgroups.make("cpu", "leaf")

    with asked_inside(tmp_path / "saved", leaf, cpu_leaf) as (facts, saved):
        assert as_json(saved) == facts
        assert saved.memory.limit == (300 * MIB, f"{memory}/memory.limit_in_bytes")
        assert [level.limit_bytes for level in saved.memory.levels] == [None, 300 * MIB, None]
        if (os.cpu_count() or 1) >= 2:
            assert saved.cpu.usable_cpus == 1.5
            assert saved.cpu.tightest.source == f"{cpu}/cpu.cfs_quota_us"


def test_file_cache_is_not_in_use(cgroups: Cgroups, tmp_path: Path) -> None:
    memory = cgroups.make("memory", settings={"memory.limit_in_bytes": 200 * MIB})
    cpuset = cgroups.make("cpuset", settings={"cpuset.cpus": "0", "cpuset.mems": "0"})

    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        file.write(os.urandom(MIB) * 128)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # so that whoever reads it next is charged
        with asked_inside(tmp_path / "saved", memory, cpuset, files=(Path(file.name),)) as (facts, saved):
            assert number(memory, "memory.usage_in_bytes") > 128 * MIB
            assert as_json(saved) == facts
            used_bytes = saved.memory.levels[0].used_bytes
            assert used_bytes is not None
            assert used_bytes < 48 * MIB
            assert saved.cpu.usable_cpus == 1.0
            if (os.cpu_count() or 1) > 1:
                assert saved.cpu.tightest.source == f"{cpuset}/cpuset.effective_cpus"
