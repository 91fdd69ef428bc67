"""What OpenMP really does to the affinity while torch is imported, and that it is seen through."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import os, torch
from lf_autoworkers.hardware import Machine, detect_hardware
cpu = detect_hardware(Machine.live()).cpu
print(len(os.sched_getaffinity(0)), cpu.affinity_shrunk_by, len(cpu.unshrunk_cpus), cpu.usable_cpus, sep="|")
"""


@pytest.mark.real
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_the_cpus_torch_took_from_the_main_thread_are_found_again() -> None:
    cpus = len(os.sched_getaffinity(0))
    if cpus < 2:
        pytest.skip("needs two CPUs")
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "OMP_PROC_BIND": "spread"},
    )
    left, shrunk_by, unshrunk, usable = done.stdout.strip().split("|")

    assert int(left) < cpus
    assert shrunk_by == "OMP_PROC_BIND=spread"
    assert int(unshrunk) == cpus
    assert 1 < float(usable) <= cpus
