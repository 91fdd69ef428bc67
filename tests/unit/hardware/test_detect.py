from __future__ import annotations

import multiprocessing
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lf_autoworkers.hardware import Machine, detect_hardware, expected_ranks
from lf_autoworkers.hardware.probes import ENVIRONMENT_NAMES, Probes

from .fake import CGROUP2_MOUNT, V1_MOUNTS

PATHS = (
    "proc/meminfo",
    "proc/self/cgroup",
    "proc/self/mountinfo",
    "proc/self/status",
    "proc/7/status",
    "sys/devices/system/cpu/online",
    *(f"sys/fs/cgroup/{name}" for name in ("cpu.max", "cpuset.cpus.effective", "memory.max", "memory.high")),
    *(f"sys/fs/cgroup/{name}" for name in ("memory.current", "memory.stat", "memory.oom.group", "pids.max")),
    "sys/fs/cgroup/pids.current",
    "sys/fs/cgroup/memory/memory.limit_in_bytes",
    "sys/fs/cgroup/memory/memory.usage_in_bytes",
    "sys/fs/cgroup/memory/memory.stat",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us",
)
TEXTS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"max\n",
            b"0\n",
            b"-1\n",
            b"1 0\n",
            b"\n",
            b"9" * 5000,
            b"0-3,\n",
            b"0::/\n",
            b"0::/../..\n4:memory:/a\n",
            b"PPid:\t7\nCpus_allowed_list:\t0-\n",
            b"MemTotal:\n",
            b"inactive_file 1\nhierarchical_memory_limit x\n",
            CGROUP2_MOUNT.encode(),
            V1_MOUNTS.encode(),
        ]
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    files=st.dictionaries(st.sampled_from(PATHS), TEXTS),
    environment=st.dictionaries(
        st.sampled_from(ENVIRONMENT_NAMES), st.one_of(st.text(max_size=8), st.sampled_from(["1", "0", "4(x2)", "-1"]))
    ),
)
def test_nothing_a_machine_holds_raises(files: dict[str, bytes], environment: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as root:
        for path, content in files.items():
            target = Path(root, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        machine = Machine(Path(root), Probes("Linux", "fork", affinity=frozenset({0}), environment=environment))
        hardware = detect_hardware(machine)

        assert hardware.cpu.usable_cpus > 0
        assert hardware.ranks.local_world_size >= 1
        assert expected_ranks(machine, hardware.gpus).local_world_size >= 1
        assert not [problem for problem in hardware.problems if "could not be told" in problem]


def test_a_machine_of_nothing_gives_facts_of_nothing(tmp_path: Path) -> None:
    hardware = detect_hardware(Machine(tmp_path, Probes("Linux", "fork")))

    assert hardware.cpu.host_cpus is None
    assert hardware.memory.limit is None
    assert hardware.shm.total_bytes is None
    assert hardware.limits.nofile is None
    assert hardware.gpus.gpus == ()
    assert hardware.problems == ()


def test_an_unforeseen_error_is_a_problem_and_leaves_the_other_facts(tmp_path: Path) -> None:
    class Broken(Machine):
        def read_number(self, path: str) -> int | None:
            raise RuntimeError("unforeseen")

    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text(CGROUP2_MOUNT)
    hardware = detect_hardware(Broken(tmp_path, Probes("Linux", "fork", cpu_count=4)))

    assert hardware.cpu.usable_cpus == 4.0
    assert hardware.memory.limit is None
    assert "The memory of this machine could not be told: RuntimeError: unforeseen." in hardware.problems


def test_live_detection_is_quick_light_and_leaves_the_process_as_it_was() -> None:
    code = """
import multiprocessing, sys, time
from lf_autoworkers.hardware import Machine, detect_hardware
times = []
for _ in range(5):
    start = time.perf_counter()
    hardware = detect_hardware(Machine.live())
    times.append(time.perf_counter() - start)
heavy = {"torch", "llamafactory", "transformers", "numpy"} & set(sys.modules)
assert not heavy, heavy
assert multiprocessing.get_start_method(allow_none=True) is None
print(min(times))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.1


def test_a_chosen_start_method_is_reported() -> None:
    code = """
import multiprocessing
multiprocessing.set_start_method("spawn")
from lf_autoworkers.hardware import Machine
print(Machine.live().probes.start_method)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "spawn"


@pytest.mark.skipif(sys.platform != "linux", reason="the default differs elsewhere")
def test_without_a_choice_it_is_the_default() -> None:
    assert Machine.live().probes.start_method == multiprocessing.get_all_start_methods()[0]
