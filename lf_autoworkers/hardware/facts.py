"""What this process may really use, as frozen facts; each value says where it came from.

Covers the shape of the facts and the arithmetic that needs nothing else (the tightest limit, the smallest headroom).
Does not read anything: `cpu`, `memory`, `limits`, `gpu` and `ranks` do, `detect` puts them together. A reading that
could not be had is ``None``, never 0.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CpuConstraint:
    """One thing that bounds the CPUs.

    Attributes:
        name: ``online``, ``affinity``, ``cpuset``, ``cgroup quota``, ``slurm`` or ``environment``.
        cpus: CPUs it allows, above 0; a quota may be a fraction (2.5).
        source: The file, call or variable that said so.
    """

    name: str
    cpus: float
    source: str


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """The CPUs of the host and everything that narrows them.

    Attributes:
        host_cpus: Online CPUs of the host, or ``None`` where unknown.
        host_source: Where that came from.
        constraints: Everything that narrows them; may be empty.
        affinity_shrunk_by: What narrowed this process's affinity during ``import torch`` (``OMP_PROC_BIND=spread``);
            the affinity constraint then holds the parent's wider set. ``None`` where nothing did.
        unshrunk_cpus: That wider set. Workers inherit the main thread's one CPU unless they are given these; empty
            where nothing shrank the affinity.
    """

    host_cpus: int | None
    host_source: str
    constraints: tuple[CpuConstraint, ...] = ()
    affinity_shrunk_by: str | None = None
    unshrunk_cpus: tuple[int, ...] = ()

    @property
    def tightest(self) -> CpuConstraint:
        """The constraint that binds (the host itself where nothing narrows it; 1 CPU where nothing is known)."""
        host = CpuConstraint("online", float(self.host_cpus or 0), self.host_source)
        known = [c for c in (*self.constraints, host) if c.cpus > 0]
        return min(known, key=lambda c: c.cpus, default=CpuConstraint("unknown", 1.0, "no CPU count could be read"))

    @property
    def usable_cpus(self) -> float:
        """CPUs this process may keep busy: the minimum of all constraints; may be a fraction, always above 0."""
        return self.tightest.cpus


@dataclass(frozen=True, slots=True)
class MemoryLevel:
    """One level that can kill this process: a cgroup on the way to the root.

    Attributes:
        limit_bytes: The lower of its hard limit and its throttling limit (``memory.high``); ``None`` for no limit.
        used_bytes: What counts against it and cannot be reclaimed (no file cache); ``None`` where unreadable.
        source: The file that holds the limit.
    """

    limit_bytes: int | None
    used_bytes: int | None
    source: str

    @property
    def headroom_bytes(self) -> int | None:
        """Bytes left before the limit; ``None`` without a limit or a reading."""
        if self.limit_bytes is None or self.used_bytes is None:
            return None
        return self.limit_bytes - self.used_bytes


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """Host memory and every cgroup level above this process. Swap counts as 0.

    Attributes:
        total_bytes: Host memory (MemTotal); ``None`` where unknown.
        available_bytes: What the host could still give (MemAvailable); ``None`` where unknown.
        host_source: Where those two came from.
        levels: cgroup levels from this process's own up to the root, only those that could be found.
        own_bytes: Memory this training job's own processes (this one, its launcher, sibling ranks) hold already and
            the plan counts by a constant instead, so that ``explain`` and a starting run see the same machine.
        oom_group: Whether the kernel kills the whole cgroup at once (``memory.oom.group``); ``None`` where unknown.
    """

    total_bytes: int | None
    available_bytes: int | None
    host_source: str
    levels: tuple[MemoryLevel, ...] = ()
    own_bytes: int = 0
    oom_group: bool | None = None

    @property
    def limit(self) -> tuple[int, str] | None:
        """The smallest of all limits and the host's memory, in bytes, with its source; ``None`` if none is known."""
        known = [(level.limit_bytes, level.source) for level in self.levels if level.limit_bytes is not None]
        if self.total_bytes is not None:
            known.append((self.total_bytes, self.host_source))
        return min(known, default=None, key=lambda pair: pair[0])

    @property
    def headroom(self) -> tuple[int, str] | None:
        """The smallest headroom in bytes over all levels and the host, ``own_bytes`` given back, with its source."""
        known = [(level.headroom_bytes, level.source) for level in self.levels if level.headroom_bytes is not None]
        if self.available_bytes is not None:
            known.append((self.available_bytes, self.host_source))
        if not known:
            return None
        size, source = min(known, key=lambda pair: pair[0])
        return max(0, size + self.own_bytes), source


@dataclass(frozen=True, slots=True)
class ShmFacts:
    """Shared memory, which carries every tensor from a worker to the trainer.

    Attributes:
        total_bytes: Size of the file system; ``None`` where there is none (macOS, Windows) or it is unreadable.
        free_bytes: Bytes still free.
        source: Usually ``/dev/shm``.
    """

    total_bytes: int | None
    free_bytes: int | None
    source: str


@dataclass(frozen=True, slots=True)
class LimitFacts:
    """Counts the kernel bounds.

    Attributes:
        nofile: Open files one process may have, the soft limit raised to the hard one; ``None`` = unlimited/unknown.
        nofile_source: ``RLIMIT_NOFILE`` with both values.
        pids: Processes and threads that may still be started: the smallest (limit - current) of the cgroup path and
            RLIMIT_NPROC; ``None`` where nothing bounds them.
        pids_source: The file or limit that binds.
    """

    nofile: int | None
    nofile_source: str
    pids: int | None
    pids_source: str


@dataclass(frozen=True, slots=True)
class Gpu:
    """One visible NVIDIA GPU: its NVML index, product name and memory in bytes."""

    index: int
    name: str
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """The GPUs this process will see (``CUDA_VISIBLE_DEVICES`` applied).

    Attributes:
        gpus: Empty where there are none, or none that NVML knows.
        source: ``NVML 12.570.86``, or why there is no answer (``no NVIDIA driver``, an NVML error's text).
    """

    gpus: tuple[Gpu, ...]
    source: str


@dataclass(frozen=True, slots=True)
class RankFacts:
    """Training processes that share this machine.

    Attributes:
        local_world_size: Ranks on this node, 1 or more.
        source: Who said so: ``LOCAL_WORLD_SIZE``, ``LF_AUTOWORKERS_LOCAL_WORLD_SIZE``, ``Ray actors on this node``,
            ``NPROC_PER_NODE``, ``one process``.
        local_rank: This process's place among them, 0 where there is but one.
        world_size: Ranks on all nodes, 1 or more.
    """

    local_world_size: int
    source: str
    local_rank: int = 0
    world_size: int = 1


@dataclass(frozen=True, slots=True)
class Hardware:
    """Everything the plan knows of the machine.

    Attributes:
        system: ``Linux``, ``Darwin`` or ``Windows``; WSL is Linux.
        start_method: How workers are started where nobody chose: ``fork``, ``forkserver`` or ``spawn``.
        problems: One sentence for each reading that failed though it should have worked (EACCES, garbage in a file);
            a file that is simply not there on this kind of machine is no problem.
    """

    system: str
    start_method: str
    cpu: CpuFacts
    memory: MemoryFacts
    shm: ShmFacts
    limits: LimitFacts
    gpus: GpuFacts
    ranks: RankFacts
    problems: tuple[str, ...] = ()

    def with_cpus(self, cpus: float, source: str) -> Hardware:
        """Return a copy in which the node's CPUs are ``cpus``, whatever was detected (a what-if, up or down)."""
        return dataclasses.replace(
            self,
            cpu=CpuFacts(self.cpu.host_cpus, self.cpu.host_source, (CpuConstraint("environment", cpus, source),))
            if self.cpu.host_cpus is not None and cpus <= self.cpu.host_cpus
            else CpuFacts(None, source, (CpuConstraint("environment", cpus, source),)),
        )

    def with_memory_limit(self, limit_bytes: int, source: str) -> Hardware:
        """Return a copy that has ``limit_bytes`` in all, with as much in use as was found; real limits are left out."""
        limit = self.memory.limit
        headroom = self.memory.headroom
        used = max(0, limit[0] - headroom[0]) if limit is not None and headroom is not None else 0
        memory = MemoryFacts(
            total_bytes=limit_bytes,
            available_bytes=max(0, limit_bytes - used),
            host_source=source,
            oom_group=self.memory.oom_group,
        )
        return dataclasses.replace(self, memory=memory)

    def with_shm(self, size_bytes: int, source: str) -> Hardware:
        """Return a copy whose /dev/shm has ``size_bytes``, all of it free."""
        return dataclasses.replace(self, shm=ShmFacts(size_bytes, size_bytes, source))

    def with_ranks(self, local_world_size: int, source: str) -> Hardware:
        """Return a copy with ``local_world_size`` ranks on this node, and at least as many in all."""
        world = max(self.ranks.world_size, local_world_size)
        ranks = dataclasses.replace(self.ranks, local_world_size=local_world_size, source=source, world_size=world)
        return dataclasses.replace(self, ranks=ranks)
