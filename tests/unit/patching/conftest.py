"""A copy of the installed release's patchable files, and a state directory of its own for every test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.patching import trees


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's state directory."""
    directory = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(directory))
    return directory


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where wheels are kept for the session."""
    return tmp_path_factory.mktemp("wheels")


@pytest.fixture
def make_package(tmp_path: Path, downloads: Path) -> Callable[..., Path]:
    """Build a package directory with the pristine files of a release below a folder of ``tmp_path``."""

    def make(folder: str = "tree", release: str = "0.9.5") -> Path:
        return trees.copy_patchable(release, trees.released_package(release, downloads), tmp_path / folder)

    return make


@pytest.fixture
def package(make_package: Callable[..., Path]) -> Path:
    """Pristine 0.9.5."""
    return make_package()
