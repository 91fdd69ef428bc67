"""A tree that was patched by another version of lf-autoworkers, whose patches read differently."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lf_autoworkers import patching
from lf_autoworkers.errors import PatchError
from lf_autoworkers.patching.catalogue import load_patches, patches_directory, state_key
from lf_autoworkers.patching.tree import text_digest
from lf_autoworkers.patching.udiff import splice
from tests.unit.patching.trees import fingerprint

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def other_version(tmp_path: Path, package: Path) -> Path:
    """A copy of this package whose json-config says the same in other words."""
    folder = tmp_path / "other"
    shutil.copytree(
        REPOSITORY / "lf_autoworkers", folder / "lf_autoworkers", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(patches_directory(), folder / "patches")
    release = folder / "patches" / "0.9.5"
    patch = release / "json-config.patch"
    patch.write_text(patch.read_text().replace("read_bytes()", "read_text()"))
    diff = load_patches(release)["json-config"].diffs
    manifest = json.loads((folder / "patches" / "manifest.json").read_text())
    for file in ("hparams/parser.py", "v1/config/arg_parser.py"):
        digest = text_digest(splice((package / file).read_bytes(), diff[file].edits))
        manifest["0.9.5"][file][state_key(frozenset({"json-config"}))] = digest
    (folder / "patches" / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def pristine(package: Path) -> dict[str, tuple[str, int]]:
    """What the tree was before anything was applied."""
    return fingerprint(package)


@pytest.fixture
def old_tree(other_version: Path, package: Path, pristine: dict[str, tuple[str, int]]) -> Path:
    """0.9.5 with the other version's json-config and the unchanged streaming-shards."""
    code = "import sys; from lf_autoworkers import patching; patching.apply(sys.argv[2:], sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(package), "json-config", "streaming-shards"],
        env={**os.environ, "PYTHONPATH": str(other_version)},
        cwd=other_version,
        check=True,
        timeout=60,
    )
    assert "json.loads(Path(sys.argv[1]).absolute().read_text())" in (package / "hparams" / "parser.py").read_text()
    return package


def test_status_and_doctor_tell(old_tree: Path) -> None:
    status = patching.status(old_tree)
    assert status.exit_code == 1
    assert "The patches json-config, streaming-shards" in status.text[-1]
    assert "another version of lf-autoworkers" in status.text[-1]
    lost = patching.lost_patches(old_tree)
    assert lost is not None and lost.another_version
    assert lost.sentence() == status.text[-1]
    with pytest.raises(PatchError, match="another version of lf-autoworkers"):
        patching.apply(path=old_tree, dry_run=True)


def test_apply_brings_them_up_to_date(old_tree: Path) -> None:
    outcome = patching.apply(["fingerprint"], old_tree)
    assert outcome.text[0] == "Brought up to date: json-config, streaming-shards."
    assert outcome.text[1] == "Applied: fingerprint."
    assert "json.loads(Path(sys.argv[1]).absolute().read_bytes())" in (old_tree / "hparams" / "parser.py").read_text()
    assert patching.status(old_tree).exit_code == 0
    assert patching.lost_patches(old_tree) is None


def test_revert_takes_them_out(old_tree: Path, pristine: dict[str, tuple[str, int]]) -> None:
    patching.revert(path=old_tree)
    assert fingerprint(old_tree) == pristine


def test_a_file_edited_since_is_foreign(old_tree: Path) -> None:
    for file in ("hparams/parser.py", "v1/config/arg_parser.py"):
        (old_tree / file).write_text((old_tree / file).read_text() + "# mine\n")
    before = fingerprint(old_tree)
    with pytest.raises(PatchError, match=r"hparams/parser\.py \(foreign\)"):
        patching.apply(["native-auto"], old_tree)
    assert fingerprint(old_tree) == before
