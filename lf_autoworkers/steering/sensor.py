"""Takes readings: every memory limit above this process, /dev/shm, PSI, the kernel's counters, the workers' memory.

Covers reading and nothing else: `hardware` finds the cgroups and knows their files, `processes` reads single processes,
`danger` and `guard` judge. Files are below an injected root, so that a fake machine is a directory. A file that
vanishes in the middle of a run is ``None`` from then on, never 0 and never an exception.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from lf_autoworkers.hardware.cgroup import CgroupDirectory, cgroup_levels
from lf_autoworkers.hardware.facts import MemoryFacts, MemoryLevel, ShmFacts
from lf_autoworkers.hardware.machine import Machine
from lf_autoworkers.hardware.memory import memory_level, read_memory
from lf_autoworkers.hardware.probes import Probes
from lf_autoworkers.steering.limits import GuardLimits
from lf_autoworkers.steering.processes import TrainerMemory, WorkersMemory
from lf_autoworkers.steering.readings import Reading

# Limits may be set while a run lasts (docker update): levels without one are looked at again this often.
_RELOOK_S = 5.0
# One PSI file costs 0.08 ms (measured) and averages over 10 s.
_SLOW_S = 1.0


def shm_size(path: Path = Path("/dev/shm")) -> tuple[int, int] | None:
    """Return total and free bytes of the file system at `path`; ``None`` where there is none or it has no size."""
    try:
        stat = os.statvfs(path)
    except OSError:
        return None
    return (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize) if stat.f_blocks else None


class Sensor:
    """One machine, looked at again and again by one thread at a time.

    Attributes:
        facts: Memory as it was when the sensor was made: all levels, and whether one kill ends the whole cgroup.
        problems: One sentence for each file that is there and could not be read.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        memory_limit_bytes: int | None = None,
        ranks: int = 1,
        pid: int | None = None,
        read_shm: Callable[[], tuple[int, int] | None] = shm_size,
    ) -> None:
        """Find the cgroups once.

        Args:
            root: Where /proc and /sys are.
            memory_limit_bytes: ``LF_AUTOWORKERS_MEMORY_LIMIT``, a limit of this node beside the kernel's.
            ranks: Training processes that share it; each answers for its part.
            pid: The trainer; this process by default.
            read_shm: Total and free bytes of /dev/shm.
        """
        self._root = root
        self._granted_bytes = None if memory_limit_bytes is None else memory_limit_bytes // max(1, ranks)
        self._read_shm = read_shm
        self._trainer = TrainerMemory(root / "proc", os.getpid() if pid is None else pid)
        self._workers = WorkersMemory(root / "proc", GuardLimits().settled_batches)
        machine = self._machine()
        self.facts: MemoryFacts = read_memory(machine)
        self._directories = cgroup_levels(machine, "memory")
        self._bounded = set(self._directories)
        self._hidden = tuple(level for level in self.facts.levels if " in " in level.source)
        self.problems: list[str] = list(machine.problems)
        self._looked_s = self._slow_s = float("-inf")
        self._stalls: tuple[float | None, float | None] = (None, None)
        self._limit_hits: int | None = None

    def read(self, now: float, batches: Mapping[int, int]) -> Reading:
        """Return what is true at this moment.

        Args:
            now: Seconds of the caller's monotonic clock, never less than before.
            batches: The pids of the loader's workers, with the batches each has finished.
        """
        machine = self._machine()
        if now - self._slow_s >= _SLOW_S:
            self._slow_s = now
            self._stalls = self._pressure()
            self._limit_hits = self._counter(machine, self._directories, "max", "memory.failcnt")
        held, peak = self._trainer.read()
        workers = self._workers.read(now, batches)
        levels = [*self._levels(machine, now), *self._host(machine)]
        if self._granted_bytes is not None and held is not None:
            used = held + sum(worker.private_bytes or 0 for worker in workers)
            levels.append(MemoryLevel(self._granted_bytes, used, "LF_AUTOWORKERS_MEMORY_LIMIT"))
        shm = self._read_shm()
        reading = Reading(
            at_s=now,
            levels=tuple(levels),
            shm=None if shm is None else ShmFacts(*shm, "/dev/shm"),
            psi_some_percent=self._stalls[0],
            psi_full_percent=self._stalls[1],
            oom_kills=self._oom_kills(machine),
            limit_hits=self._limit_hits,
            trainer_bytes=held,
            trainer_peak_bytes=peak,
            workers=workers,
        )
        self.problems.extend(problem for problem in machine.problems if problem not in self.problems)
        return reading

    def oom_kills(self) -> int | None:
        """Return how many processes the kernel has killed in this process's own cgroup; ``None`` if nobody counts."""
        return self._oom_kills(self._machine())

    def _machine(self) -> Machine:
        # A `Machine` reads each file once: a new one for each look.
        return Machine(self._root, Probes(system="Linux", start_method="fork"))

    def _levels(self, machine: Machine, now: float) -> list[MemoryLevel]:
        if now - self._looked_s >= _RELOOK_S:
            self._looked_s = now
            self._bounded = set(self._directories)
        found = []
        for directory in self._directories:
            if directory not in self._bounded:
                continue
            level = memory_level(machine, directory)
            if level is None or level.limit_bytes is None:
                self._bounded.discard(directory)
            else:
                found.append(level)
        for level in self._hidden:
            # A v1 parent that is not mounted here: the use of its visible part is the best there is.
            top = memory_level(machine, self._directories[-1])
            found.append(MemoryLevel(level.limit_bytes, None if top is None else top.used_bytes, level.source))
        return found

    def _host(self, machine: Machine) -> list[MemoryLevel]:
        sizes: dict[str, int] = {}
        for line in (machine.read_text("/proc/meminfo") or "").splitlines()[:4]:
            key, _, value = line.partition(":")
            number = value.split()[:1]
            if number and number[0].isdigit():
                sizes[key] = int(number[0]) * 1024
        total, available = sizes.get("MemTotal"), sizes.get("MemAvailable")
        used = None if total is None or available is None else total - available
        return [] if total is None else [MemoryLevel(total, used, "/proc/meminfo")]

    def _pressure(self) -> tuple[float | None, float | None]:
        own = [f"{directory.path}/memory.pressure" for directory in self._directories[:1] if directory.version == 2]
        for path in (*own, "/proc/pressure/memory"):
            try:
                lines = (self._root / path.lstrip("/")).read_text().splitlines()
                averages = {line.split()[0]: float(line.split()[1].removeprefix("avg10=")) for line in lines}
            except (OSError, ValueError, IndexError):
                continue  # a kernel without PSI answers EOPNOTSUPP; PSI only confirms, so nothing is lost
            return averages.get("some"), averages.get("full")
        return None, None

    def _oom_kills(self, machine: Machine) -> int | None:
        # v1 counts a kill in the victim's own cgroup alone, v2 in those above it as well: the own one serves both.
        return self._counter(machine, self._directories[:1], "oom_kill", "memory.oom_control")

    def _counter(self, machine: Machine, directories: Iterable[CgroupDirectory], key: str, v1_file: str) -> int | None:
        """Return the sum of one counter over some levels: a line of ``memory.events`` (v2), or of a v1 file."""
        found = []
        for directory in directories:
            name = "memory.events" if directory.version == 2 else v1_file
            for line in (machine.read_text(f"{directory.path}/{name}") or "").splitlines():
                words = line.split()
                # memory.failcnt is a bare number; everything else is "name number".
                if words and words[-1].isdigit() and (len(words) == 1 or words[0] == key):
                    found.append(int(words[-1]))
        return sum(found) if found else None
