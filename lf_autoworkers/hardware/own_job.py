"""Memory that this training job itself holds already.

`explain` before a start and a training process that asks while it starts should see the same machine. The second one
has torch loaded, so have its launcher and its sibling ranks; the plan counts what a training process takes as a
constant. This module finds what those processes hold, so that it can be given back to the headroom.

Counts anonymous and shared memory only: file pages are taken out of a cgroup's use already. Does not count processes
that are no part of the job: a shell, a test runner, another training.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePath

_LAUNCHERS = {
    "torchrun",
    "lf-autoworkers",
    "accelerate",
    "deepspeed",
    "torch.distributed.run",
    "torch.distributed.launch",
    "lf_autoworkers",
}
_TRAINERS = {"llamafactory-cli", "lmf", "llamafactory.cli"}
_TRAIN_COMMANDS = {"train", "sft", "dpo", "rm"}
_SHELLS = {"sh", "bash", "dash", "zsh"}
# A job is a few ranks and their children; past this, a count is cut short rather than start-up held up.
_MOST_PROCESSES = 512


def own_job_bytes(proc: Path, pid: int) -> int:
    """Return the bytes that process ``pid``, its launchers and all that runs below those hold.

    Args:
        proc: The /proc to read; where it does not exist, psutil is asked about ``pid`` alone.
        pid: The process to start from.
    """
    if not (proc / str(pid)).exists():
        return _resident_bytes(pid) if not (proc / "self").exists() else 0
    launchers = list(_launcher_chain(proc, pid))
    members = {pid, *launchers}
    if launchers:
        members.update(_descendants(proc, launchers[-1]))
    return sum(_private_bytes(proc / str(member)) for member in sorted(members)[:_MOST_PROCESSES])


def _launcher_chain(proc: Path, pid: int) -> Iterator[int]:
    """Yield launchers from ``pid`` itself upwards; a shell between two launchers is passed over."""
    current = pid
    for _ in range(64):
        command = _command_line(proc / str(current))
        if _is_launcher(command):
            yield current
        elif current != pid and not (command and PurePath(command[0]).name.lstrip("-") in _SHELLS):
            return
        current = _parent(proc / str(current))
        if current <= 0:
            return


def _is_launcher(command: list[str]) -> bool:
    """Tell a launcher of a training run; ``llamafactory-cli webui`` is none, it lives on between runs."""
    program, *arguments = _without_interpreter(command) or [""]
    name = PurePath(program).name.removesuffix(".exe")
    return name in _LAUNCHERS or (name in _TRAINERS and arguments[:1] != [] and arguments[0] in _TRAIN_COMMANDS)


def _without_interpreter(command: list[str]) -> list[str]:
    """Return the script or module Python runs, and its arguments; ``command`` itself where it is not Python."""
    if not command or not PurePath(command[0]).name.startswith("python"):
        return command
    rest = command[1:]
    while rest and rest[0].startswith("-"):
        if rest[0] == "-m":
            return rest[1:]
        rest = rest[2:] if rest[0] in ("-X", "-W") else rest[1:]
    return rest


def _descendants(proc: Path, top: int) -> set[int]:
    children: dict[int, list[int]] = {}
    with contextlib.suppress(OSError), os.scandir(proc) as entries:
        for entry in entries:
            if entry.name.isdigit():
                children.setdefault(_parent(Path(entry.path)), []).append(int(entry.name))
    found: set[int] = set()
    waiting = [top]
    while waiting and len(found) < _MOST_PROCESSES:
        new = [child for child in children.get(waiting.pop(), ()) if child not in found]
        found.update(new)
        waiting.extend(new)
    return found


def _command_line(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def _parent(process: Path) -> int:
    # The name in brackets may hold blanks and brackets; what follows the last one is fixed (proc_pid_stat(5)).
    try:
        return int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _private_bytes(process: Path) -> int:
    """Anonymous and shared memory of one process, shared pages split among their users; 0 where it has gone."""
    for name, keys in (("smaps_rollup", ("Pss_Anon", "Pss_Shmem")), ("status", ("RssAnon", "RssShmem"))):
        sizes: list[int] = []
        with contextlib.suppress(OSError, ValueError):
            for line in (process / name).read_text(errors="replace").splitlines():
                key, _, rest = line.partition(":")
                if key in keys:
                    sizes.append(int(rest.split()[0]) * 1024)
        if sizes:
            return sum(sizes)
    return 0


def _resident_bytes(pid: int) -> int:
    try:
        import psutil

        return int(psutil.Process(pid).memory_info().rss)
    except Exception:  # a fact that only sharpens the plan; 0 is the careful answer
        return 0
