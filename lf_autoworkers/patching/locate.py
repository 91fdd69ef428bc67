"""Finding the source tree of LLaMA-Factory: the installed one without importing it, or the one a user points at.

Also asks git whether files of a checkout hold work that is not committed. Knows nothing of patches.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from lf_autoworkers.errors import PatchError

_PACKAGE = "llamafactory"
#: A file that every release has and that a folder of the same name would not.
_LANDMARK = Path("hparams") / "parser.py"
_GIT_TIMEOUT_S = 30.0


def find_package(path: str | Path | None = None) -> Path:
    """The ``llamafactory`` package directory, symbolic links resolved.

    ``path`` is a checkout, its ``src`` (or a site-packages), or the package itself; ``None`` means the package that
    ``import llamafactory`` would load. Raises ``PatchError`` if it is not there.
    """
    if path is None:
        return _find_installed()
    directory = Path(path).expanduser()
    for candidate in (directory / "src" / _PACKAGE, directory / _PACKAGE, directory):
        if (candidate / _LANDMARK).is_file():
            return candidate.resolve()
    if not directory.is_dir():
        raise PatchError(f"{directory} is no directory: --path wants a checkout of LLaMA-Factory or its package.")
    raise PatchError(
        f"There is no LLaMA-Factory in {directory}: {_LANDMARK} is neither there nor in {_PACKAGE}/ or src/{_PACKAGE}/."
    )


def _find_installed() -> Path:
    spec = find_spec(_PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(location) / _LANDMARK).is_file():
            return Path(location).resolve()
    raise PatchError(
        "LLaMA-Factory is not installed in this Python environment: install it, or point at a checkout with --path DIR."
    )


def uncommitted(package: Path, files: Sequence[str]) -> frozenset[str]:
    """Those of ``files`` that git tracks and that differ from the last commit.

    Empty where there is no git, no checkout, or one git does not trust: checksums still guard the files there.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(package), "-c", "core.quotePath=off"]
    try:
        answer = subprocess.run(
            [*command, "diff", "--name-only", "--relative", "-z", "HEAD", "--", *files],
            env=environment,
            capture_output=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    if answer.returncode != 0:
        return frozenset()
    return frozenset(answer.stdout.decode(errors="replace").split("\0")) & frozenset(files)
