"""Kernel memory boxes: a cgroup of this machine's own with a limit, and what happened in it.

Covers version 1 and 2, a limit on the process's own cgroup or on its parent's. Needs root (or a delegated v2 cgroup).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

V1 = Path("/sys/fs/cgroup/memory")
V2 = Path("/sys/fs/cgroup")
SAMPLE_S = 0.02


def unavailable() -> str | None:
    """Return why no memory cgroup can be made here; ``None`` if one can."""
    try:
        with Box(None):
            return None
    except OSError as error:
        return f"no memory cgroup can be made here: {error}"


class Box:
    """A memory cgroup. The limit covers everything but file cache that can be dropped, as the kernel sees it.

    Attributes:
        peak_bytes: The most that was in use besides file cache, sampled every 20 ms while `watch` is on.
        limit_hits: Times the limit was reached.
    """

    def __init__(self, limit_bytes: int | None, *, on_parent: bool = False) -> None:
        self.version = 1 if (V1 / "memory.limit_in_bytes").exists() else 2
        self._top = (V1 if self.version == 1 else _v2_parent()) / f"lfaw-test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._own = self._top / "own" if on_parent else self._top
        self._limit = limit_bytes
        self.peak_bytes = 0
        self.samples: list[tuple[float, int]] = []
        self._seen_pids: set[int] = set()
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Box:
        self._top.mkdir()
        try:
            if self.version == 2 and self._own != self._top:
                (self._top / "cgroup.subtree_control").write_text("+memory")
            if self._own != self._top:
                self._own.mkdir()
            if self._limit is not None:
                self.set_limit(self._limit)
            self.used_bytes()
        except OSError:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join()
        self._end()
        # What PyTorch's own workers leave in /dev/shm when they are killed.
        for pid in self._seen_pids:
            for left in Path("/dev/shm").glob(f"torch_{pid}_*"):
                left.unlink(missing_ok=True)

    def _end(self) -> None:
        for path in dict.fromkeys((self._own, self._top)):
            deadline = time.monotonic() + 10
            while path.exists():
                for pid in _pids(path):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, 9)
                try:
                    path.rmdir()
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)

    def set_limit(self, limit_bytes: int) -> None:
        """Move the limit."""
        (self._top / ("memory.limit_in_bytes" if self.version == 1 else "memory.max")).write_text(str(limit_bytes))

    def enter(self) -> None:
        """Put the calling process in; for ``preexec_fn``."""
        (self._own / "cgroup.procs").write_text(str(os.getpid()))

    def popen(
        self, command: Sequence[str], *, cwd: Path, environ: Mapping[str, str], output: Path, prefix: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """Start a command inside, its output going to a file."""
        with output.open("wb") as sink:
            return subprocess.Popen(
                [*prefix, *command],
                cwd=cwd,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                preexec_fn=self.enter,
                start_new_session=True,
            )

    def charged_bytes(self) -> int:
        """Return what is in use, file cache included."""
        name = "memory.usage_in_bytes" if self.version == 1 else "memory.current"
        return int((self._top / name).read_text())

    def used_bytes(self) -> int:
        """Return what is in use besides file cache."""
        used = self.charged_bytes()
        keys = ("total_inactive_file", "total_active_file") if self.version == 1 else ("inactive_file", "active_file")
        stat = dict(line.split() for line in (self._top / "memory.stat").read_text().splitlines())
        return used - sum(int(stat.get(key, 0)) for key in keys)

    @property
    def oom_kills(self) -> int:
        """Processes the kernel has killed inside."""
        total = 0
        for path in dict.fromkeys((self._own, self._top)) if self.version == 1 else (self._top,):
            name = "memory.oom_control" if self.version == 1 else "memory.events"
            for line in (path / name).read_text().splitlines():
                key, value = line.split()
                total += int(value) if key == "oom_kill" else 0
        return total

    def watch(self) -> None:
        """Sample the use from now on."""

        def sample() -> None:
            begun = time.monotonic()
            while not self._stop.wait(SAMPLE_S):
                used = self.used_bytes()
                self._seen_pids.update(_pids(self._own))
                self.samples.append((time.monotonic() - begun, used))
                self.peak_bytes = max(self.peak_bytes, used)

        self._watcher = threading.Thread(target=sample, daemon=True)
        self._watcher.start()


@dataclass
class BoxedRun:
    """A finished command and its box.

    Attributes:
        code: Exit code; negative for a signal, -1 for one that had to be ended at its time limit (`timed_out`).
        wall_s: How long it took.
    """

    code: int
    text: str
    wall_s: float
    oom_kills: int
    peak_bytes: int
    timed_out: bool = False
    samples: list[tuple[float, int]] = field(default_factory=list)


def run_boxed(
    command: Sequence[str],
    *,
    limit_bytes: int | None,
    cwd: Path,
    environ: Mapping[str, str],
    timeout_s: float,
    on_parent: bool = False,
    prefix: Sequence[str] = (),
) -> BoxedRun:
    """Run a command to its end in a box of its own; whatever it leaves running is killed with the box."""
    output = cwd / f"output-{uuid.uuid4().hex[:8]}.log"
    with Box(limit_bytes, on_parent=on_parent) as box:
        box.watch()
        begun = time.monotonic()
        process = box.popen(command, cwd=cwd, environ=environ, output=output, prefix=prefix)
        timed_out = False
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            code, timed_out = -1, True
        wall_s = time.monotonic() - begun
        kills = box.oom_kills
    return BoxedRun(code, output.read_text(errors="replace"), wall_s, kills, box.peak_bytes, timed_out, box.samples)


def _pids(path: Path) -> Iterator[int]:
    try:
        yield from (int(line) for line in (path / "cgroup.procs").read_text().split())
    except (OSError, ValueError):
        return


def _v2_parent() -> Path:
    """Return a v2 cgroup below which the memory controller can be used."""
    if "memory" in (V2 / "cgroup.subtree_control").read_text().split():
        return V2
    (V2 / "cgroup.subtree_control").write_text("+memory")
    return V2
