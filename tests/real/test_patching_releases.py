"""Every patch against the sources of every release, as its own wheel ships them, with git as the second opinion."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from lf_autoworkers import patching
from lf_autoworkers.patching.catalogue import Release, every_state, load_releases, patches_directory
from lf_autoworkers.patching.tree import text_digest
from lf_autoworkers.patching.udiff import check_context
from tests.unit.patching import trees

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wheels")


@pytest.fixture(params=load_releases(), ids=lambda release: release.version)
def release(request: pytest.FixtureRequest) -> Release:
    chosen: Release = request.param
    return chosen


@pytest.fixture
def package(release: Release, downloads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the release's patchable files in a folder laid out like a checkout."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return trees.copy_patchable(
        release.version, trees.released_package(release.version, downloads), tmp_path / "checkout" / "src"
    )


def git_apply(release: Release, names: Sequence[str], checkout: Path, *options: str) -> None:
    files = [patches_directory() / release.version / f"{name}.patch" for name in names]
    # Without a ceiling, git would look for a repository above and skip what lies outside of it.
    subprocess.run(
        ["git", "apply", *options, *map(str, files)],
        cwd=checkout,
        env={"GIT_CEILING_DIRECTORIES": str(checkout.parent), "PATH": "/usr/bin:/bin:/usr/local/bin"},
        check=True,
        timeout=60,
    )


def digests(release: Release, package: Path) -> dict[str, str]:
    return {file: text_digest((package / file).read_bytes()) for file in release.states}


def test_the_wheel_holds_what_the_manifest_calls_pristine(release: Release, package: Path) -> None:
    assert digests(release, package) == {file: release.digest(file, frozenset()) for file in release.states}
    for patch in release.patches.values():
        for file, diff in patch.diffs.items():
            check_context((package / file).read_bytes(), diff)
    status = patching.status(package)
    assert (status.exit_code, status.text[0]) == (0, f"LLaMA-Factory {release.version} in {package}")


def test_git_makes_the_same_of_every_set_of_patches(release: Release, package: Path) -> None:
    checkout = package.parents[1]
    for names in every_state(release.patches):
        ordered = sorted(names, reverse=True)
        for name in ordered:
            git_apply(release, [name], checkout, "--check")
            git_apply(release, [name], checkout)
        expected = {file: release.digest(file, names & release.touching(file)) for file in release.states}
        assert digests(release, package) == expected, names
        for file in release.states:
            compile((package / file).read_bytes(), file, "exec")
        for name in ordered:
            git_apply(release, [name], checkout, "--reverse")


def test_apply_and_revert(release: Release, package: Path) -> None:
    before = trees.fingerprint(package)
    for name in release.patches:
        patching.apply([name], package)
        patching.revert(path=package)
        assert trees.fingerprint(package) == before
    patching.apply(path=package.parents[1])
    everything = frozenset(release.patches)
    expected = {file: release.digest(file, release.touching(file) & everything) for file in release.states}
    assert digests(release, package) == expected
    patching.revert(path=package.parent)
    assert trees.fingerprint(package) == before


def test_upgrading_from_release_to_release_loses_what_was_applied(downloads: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        for older, newer in itertools.pairwise(load_releases()):
            package = trees.copy_patchable(
                older.version, trees.released_package(older.version, downloads), tmp_path / newer.version
            )
            patching.apply(path=package)
            trees.copy_patchable(
                newer.version, trees.released_package(newer.version, downloads), tmp_path / newer.version
            )
            lost = patching.lost_patches(package)
            assert lost is not None
            assert (lost.names, lost.release_then, lost.release_now) == (
                tuple(older.patches),
                older.version,
                newer.version,
            )
