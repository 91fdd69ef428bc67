"""What every test has: a check that it leaves nothing behind, and the lab for those that start the real thing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path

import hypothesis
import psutil
import pytest

from tests.lab import Lab

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("explore", deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))  # CI is the same every time

REPOSITORY = Path(__file__).parent.parent
SETTLE_S = 5.0
"""How long a process, thread or descriptor may take to go after the test's last line."""


def _left_behind() -> tuple[set[int], set[str], set[str], int]:
    """Return children, threads, shared memory files and the number of pipes and sockets of this process."""
    children = {child.pid for child in psutil.Process().children(recursive=True) if child.status() != "zombie"}
    threads = {f"{thread.name} {thread.ident}" for thread in threading.enumerate()}
    shared = {path.name for path in Path("/dev/shm").glob("torch_*")} if Path("/dev/shm").is_dir() else set()
    return children, threads, shared, _pipes()


def _pipes() -> int:
    count = 0
    for entry in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").is_dir() else ():
        try:
            count += str(entry.readlink()).startswith(("pipe:", "socket:"))
        except OSError:
            continue
    return count


@pytest.fixture(autouse=True, scope="session")
def _resource_tracker() -> None:
    """Start Python's own helper process, which the first spawn would start and which stays for the session."""
    resource_tracker.ensure_running()


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves processes, threads, descriptors or shared memory behind."""
    before = _left_behind()
    yield
    deadline = time.monotonic() + SETTLE_S
    while True:
        after = _left_behind()
        more = (after[0] - before[0], after[1] - before[1], after[2] - before[2])
        if not any(more) and after[3] <= before[3]:
            return
        if time.monotonic() > deadline:
            pipes = after[3] - before[3]
            pytest.fail(f"left behind: processes {more[0]}, threads {more[1]}, shared memory {more[2]}, {pipes} pipes")
        time.sleep(0.05)


@pytest.fixture(scope="session")
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built models and datasets, once a session."""
    folder = tmp_path_factory.mktemp("lab") / "built"
    subprocess.run([sys.executable, "-m", "tests.lab", str(folder)], cwd=REPOSITORY, check=True, capture_output=True)
    return folder


@pytest.fixture
def lab(lab_folder: Path, tmp_path: Path) -> Lab:
    """The lab, with a scratch folder of this test's own."""
    return Lab(lab_folder, tmp_path)
