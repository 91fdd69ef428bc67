"""Places that must not be written to, upgrades that take patches away, two commands at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lf_autoworkers import patching
from lf_autoworkers.errors import PatchError
from tests.unit.patching.trees import fingerprint

NOBODY = 65534


@contextmanager
def as_ordinary_user(*directories: Path) -> Iterator[None]:
    """Run as a user whom permissions bind: root gives up its effective uid for a while."""
    if os.geteuid() != 0:
        yield
        return
    for directory in directories:
        for path in (*directory.rglob("*"), *directory.parents, directory):
            if path.is_dir() and not path.stat().st_mode & 0o001:
                path.chmod(path.stat().st_mode | 0o055)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", "-C", str(directory), *identity, *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture
def checkout(make_package: Callable[..., Path]) -> Path:
    """A git work tree of 0.9.5 with everything committed."""
    package = make_package("checkout/src")
    root = package.parents[1]
    git(root, "init")
    git(root, "add", "--all")
    git(root, "commit", "--message", "0.9.5")
    return root


def test_a_read_only_package_is_refused(package: Path, state: Path) -> None:
    state.mkdir(mode=0o777)
    state.chmod(0o777)
    before = fingerprint(package)
    (package / "hparams").chmod(0o555)
    with as_ordinary_user(package), pytest.raises(PatchError, match=r"hparams is not writable .*--path DIR"):
        patching.apply(["json-config"], package)
    assert fingerprint(package) == before


def test_an_unwritable_state_directory_is_refused(package: Path, state: Path) -> None:
    state.mkdir(mode=0o555)
    before = fingerprint(package)
    with as_ordinary_user(package), pytest.raises(PatchError, match=r"state directory .* set XDG_STATE_HOME"):
        patching.apply(path=package)
    assert fingerprint(package) == before


def test_a_full_disk_changes_nothing(package: Path, state: Path) -> None:
    """A limit on file size that lets the originals be saved, and not the longer patched file be written."""
    before = fingerprint(package)
    limit = (package / "hparams" / "parser.py").stat().st_size
    code = (
        "import resource, sys; from lf_autoworkers import patching\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try: patching.apply(['native-auto'], sys.argv[1])\n"
        "except patching.commands.PatchError as error: sys.exit(str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(package)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "cannot be written (File too large): nothing was changed." in done.stderr
    assert fingerprint(package) == before
    assert patching.status(package).exit_code == 0


def test_uncommitted_work_is_refused_with_the_way_out(checkout: Path) -> None:
    parser = checkout / "src" / "llamafactory" / "hparams" / "parser.py"
    parser.write_text(parser.read_text() + "# mine\n")
    before = fingerprint(checkout / "src")
    with pytest.raises(PatchError, match=r"hparams/parser\.py \(foreign\).*git stash"):
        patching.apply(path=checkout)
    assert fingerprint(checkout / "src") == before


def test_a_released_file_that_is_not_committed_is_refused(checkout: Path) -> None:
    parser = checkout / "src" / "llamafactory" / "hparams" / "parser.py"
    released = parser.read_bytes()
    parser.write_text("# our fork\n")
    git(checkout, "commit", "--all", "--message", "fork")
    parser.write_bytes(released)
    with pytest.raises(PatchError, match=r"hparams/parser\.py in .* differ from the last commit: commit or stash"):
        patching.apply(path=checkout)


def test_a_clean_checkout_takes_patches_one_after_the_other(checkout: Path) -> None:
    before = fingerprint(checkout / "src")
    patching.apply(["json-config"], checkout)
    patching.apply(["native-auto"], checkout / "src")
    patching.revert(["json-config"], checkout / "src" / "llamafactory")
    patching.revert(path=checkout)
    assert fingerprint(checkout / "src") == before


def test_an_environment_inside_a_repository_is_not_its_checkout(
    make_package: Callable[..., Path], tmp_path: Path
) -> None:
    package = make_package("project/.venv/site-packages")
    git(tmp_path / "project", "init")
    (tmp_path / "project" / "mine.py").write_text("x = 1\n")
    git(tmp_path / "project", "add", "mine.py")
    git(tmp_path / "project", "commit", "--message", "mine")
    assert patching.apply(path=package).exit_code == 0


@pytest.mark.parametrize("relative", ["", "missing", "file.txt"])
def test_a_path_without_llamafactory(relative: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("no tree\n")
    with pytest.raises(PatchError, match=r"There is no LLaMA-Factory in|is no directory"):
        patching.status(tmp_path / relative)


def test_two_commands_at_once(package: Path, state: Path) -> None:
    before = fingerprint(package)
    code = (
        "import sys; from pathlib import Path; from lf_autoworkers.patching.store import Store\n"
        "with Store(Path(sys.argv[1])).lock():\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(package.resolve())], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        with pytest.raises(PatchError, match="Another `lf-autoworkers patch` is at work"):
            patching.apply(path=package)
        assert patching.status(package).exit_code == 0
        other.communicate("", timeout=60)
    assert fingerprint(package) == before
    assert patching.apply(path=package).exit_code == 0


def test_an_upgrade_takes_patches_away_and_is_noticed(package: Path, tmp_path: Path) -> None:
    shutil.copytree(package, tmp_path / "upgrade")
    assert patching.lost_patches(package) is None
    patching.apply(["json-config", "fingerprint"], package)
    assert patching.lost_patches(package) is None

    shutil.rmtree(package)
    shutil.copytree(tmp_path / "upgrade", package)
    lost = patching.lost_patches(package)
    assert lost is not None
    assert (lost.names, lost.release_then, lost.release_now) == (("fingerprint", "json-config"), "0.9.5", "0.9.5")
    assert lost.sentence().endswith("lf-autoworkers patch apply fingerprint json-config")
    status = patching.status(package)
    assert (status.exit_code, status.text[-1]) == (1, lost.sentence())

    patching.apply(["json-config", "fingerprint"], package)
    assert patching.lost_patches(package) is None


def test_reverting_a_lost_patch_forgets_it(package: Path, tmp_path: Path) -> None:
    shutil.copytree(package, tmp_path / "upgrade")
    patching.apply(["json-config"], package)
    shutil.rmtree(package)
    shutil.copytree(tmp_path / "upgrade", package)
    assert patching.revert(path=package).text == ("Nothing to revert: the patches are not applied.",)
    assert patching.lost_patches(package) is None


def test_an_upgrade_to_an_unknown_release(package: Path) -> None:
    patching.apply(["json-config"], package)
    for path in package.rglob("*.py"):
        path.write_text("# another release\n")
    lost = patching.lost_patches(package)
    assert lost is not None and lost.release_now is None
    assert "there are no patches for" in lost.sentence()


def test_lost_patches_without_llamafactory(tmp_path: Path) -> None:
    assert patching.lost_patches(tmp_path) is None


def test_damaged_records_are_a_sentence(package: Path, state: Path) -> None:
    patching.apply(["json-config"], package)
    (record,) = state.rglob("record.json")
    for damage in ("{", "[]", '{"package": 1}'):
        record.write_text(damage)
        with pytest.raises(PatchError, match=r"record\.json cannot be read"):
            patching.revert(path=package)
