"""``lf-autoworkers run -- CMD``: start a command in whose Pythons the hook is armed, whatever PyTorch does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lf_autoworkers.errors import AutoWorkersError

HOOK_FOLDER = Path(__file__).parent / "_run"


def environment_with_hook(environ: Mapping[str, str]) -> dict[str, str]:
    """Return ``environ`` with the hook's folder first on PYTHONPATH, which children and their children inherit."""
    rest = environ.get("PYTHONPATH", "")
    return {**environ, "PYTHONPATH": os.pathsep.join([str(HOOK_FOLDER), *([rest] if rest else [])])}


def run(command: Sequence[str]) -> int:
    """Replace this process by ``command`` (where the system can), else run it and return its exit code.

    Raises:
        AutoWorkersError: There is no such command.
    """
    program = shutil.which(command[0]) or shutil.which(command[0], path=str(Path(sys.executable).parent))
    if program is None:
        raise AutoWorkersError(f"There is no command {command[0]!r} on PATH nor in {Path(sys.executable).parent}.")
    environ = environment_with_hook(os.environ)
    if sys.platform == "win32":
        return subprocess.run([program, *command[1:]], env=environ, check=False).returncode
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        os.execve(program, [program, *command[1:]], environ)
    except OSError as error:
        raise AutoWorkersError(f"{program} cannot be started: {error.strerror}.") from error
