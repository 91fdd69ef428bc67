"""An environment of its own for one release: its pins, and this checkout installed as a wheel.

Covers what happens before the first check; nothing here needs more than the standard library. What is run in the
environment is `checks`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
INSTALL_TIMEOUT_S = 1800
"""Several GB of wheels over a slow line."""


class CompatError(Exception):
    """The environment could not be built; the text says why."""


@dataclass(frozen=True, slots=True)
class Release:
    """What one TOML says.

    Attributes:
        name: The file's stem.
        pins: Distribution -> version that work together.
        checks: Names of the functions in `checks` that must hold.
        checkout: Whether LLaMA-Factory itself comes from a folder named on the command line.
    """

    name: str
    pins: Mapping[str, str]
    checks: tuple[str, ...]
    checkout: bool = False

    def with_pins(self, pins: Mapping[str, str]) -> Release:
        """Return this release with some pins replaced."""
        return replace(self, pins={**self.pins, **pins})


def releases() -> dict[str, Release]:
    """Return every release there is a TOML for, by name."""
    return {path.stem: read_release(path) for path in sorted(HERE.glob("*.toml"))}


def read_release(path: Path) -> Release:
    """Return what the TOML at ``path`` says."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return Release(path.stem, table["pins"], tuple(table["checks"]), table.get("checkout", False))


def build(release: Release, folder: Path, python: str, checkout: Path | None) -> Path:
    """Build the environment in ``folder`` and return its Python.

    Args:
        release: What to install.
        folder: A new folder.
        python: The interpreter to build it on.
        checkout: LLaMA-Factory's sources, for a release that is a checkout.

    Raises:
        CompatError: A command failed; the text holds its last lines.
    """
    wanted = [f"{name}=={version}" for name, version in release.pins.items()]
    wanted += [str(REPOSITORY)] if checkout is None else [str(REPOSITORY), str(checkout.resolve())]
    target = folder / "bin" / "python"
    uv = _uv()
    if uv is not None:
        _run([*uv, "venv", "--quiet", "--no-project", "--python", python, str(folder)])
        # uv would otherwise take a wheel it built of an older state of this checkout.
        fresh = ["--refresh-package", "lf-autoworkers"]
        _run([*uv, "pip", "install", "--quiet", "--python", str(target), *fresh, *wanted])
    else:
        _run([python, "-m", "venv", str(folder)])
        _run([str(target), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted])
    return target


def uninstall(python: Path) -> None:
    """Take the plugin out of the environment of ``python``.

    Raises:
        CompatError: It could not be.
    """
    uv = _uv()
    if uv is not None:
        _run([*uv, "pip", "uninstall", "--quiet", "--python", str(python), "lf-autoworkers"])
    else:
        _run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "lf-autoworkers"])


def copy_checks(folder: Path) -> None:
    """Put what the checks need of ``tests`` into ``folder``, where no ``lf_autoworkers`` lies beside it."""
    target = folder / "tests"
    target.mkdir(parents=True)
    for name in ("__init__.py", "lab.py"):
        shutil.copy(REPOSITORY / "tests" / name, target / name)
    shutil.copytree(HERE, target / "compat", ignore=shutil.ignore_patterns("__pycache__"))


def _uv() -> list[str] | None:
    """Return the command that is uv: of this Python, else on PATH; it links files where pip copies them."""
    if importlib.util.find_spec("uv") is not None:
        return [sys.executable, "-m", "uv"]
    found = shutil.which("uv")
    return [found] if found else None


def _run(command: Sequence[str]) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    try:
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompatError(f"{' '.join(command)}: {error}") from error
    if done.returncode != 0:
        raise CompatError(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stderr[-3000:]}")
