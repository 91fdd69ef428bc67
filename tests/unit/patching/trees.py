"""Source trees for the tests: released files of LLaMA-Factory, from the installed one or from its wheels."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest

from lf_autoworkers.errors import PatchError
from lf_autoworkers.patching.catalogue import load_releases
from lf_autoworkers.patching.tree import read_tree

RELEASES = tuple(release.version for release in load_releases())
DOWNLOAD_TIMEOUT_S = 120


@cache
def installed_pristine() -> tuple[str, Path] | None:
    """The release and package directory of the installed LLaMA-Factory, if it is one that was not touched."""
    spec = find_spec("llamafactory")
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    try:
        tree = read_tree(package, load_releases())
    except PatchError:
        return None
    return None if tree.foreign or tree.begun() else (tree.release.version, package)


@cache
def download_problem(release: str, folder: Path) -> str | None:
    """Download and unpack the wheel of ``release`` into ``folder``; why it could not be done, or ``None``."""
    pips = ([sys.executable, "-m", "pip"], ["pip"], ["python3", "-m", "pip"])
    problem = "there is no pip"
    for pip in pips:
        command = [*pip, "download", "--quiet", "--no-deps", "--dest", str(folder), f"llamafactory=={release}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
            continue
        if done.returncode == 0:
            with zipfile.ZipFile(next(folder.glob(f"llamafactory-{release}-*.whl"))) as wheel:
                wheel.extractall(folder)
            return None
        problem = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return problem


def released_package(release: str, downloads: Path) -> Path:
    """The package directory of ``release``, not to be written to. Skips the test if it cannot be had."""
    installed = installed_pristine()
    if installed is not None and installed[0] == release:
        return installed[1]
    folder = downloads / release
    folder.mkdir(exist_ok=True)
    problem = download_problem(release, folder)
    if problem is not None:
        pytest.skip(f"the wheel of LLaMA-Factory {release} cannot be downloaded: {problem}")
    return folder / "llamafactory"


def copy_patchable(release: str, package: Path, target: Path) -> Path:
    """A small tree at ``target``/llamafactory: only the files that the patches for ``release`` touch."""
    files = next(entry.states for entry in load_releases() if entry.version == release)
    for file in files:
        path = target / "llamafactory" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package / file, path)
    return target / "llamafactory"


def fingerprint(directory: Path) -> dict[str, tuple[str, int]]:
    """The checksum and mode of every file below ``directory``."""
    return {
        str(path.relative_to(directory)): (sha256(path.read_bytes()).hexdigest(), path.stat().st_mode)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
