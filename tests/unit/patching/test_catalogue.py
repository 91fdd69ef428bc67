"""The patches as they are in the repository: complete, sealed, found from everywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lf_autoworkers.errors import PatchError
from lf_autoworkers.patching import catalogue
from lf_autoworkers.patching.catalogue import every_state, load_releases, state_key
from tests.unit.patching.trees import RELEASES

REPOSITORY = Path(__file__).resolve().parents[3]


def test_there_are_patches_for_the_supported_releases() -> None:
    assert RELEASES == ("0.9.3", "0.9.4", "0.9.5")
    by_release = {release.version: set(release.patches) for release in load_releases()}
    everywhere = {"native-auto", "streaming-shards", "fingerprint", "webui-auto"}
    # 0.9.3 reads JSON configs correctly and has no v1.
    assert by_release == {
        "0.9.3": everywhere,
        "0.9.4": everywhere | {"json-config"},
        "0.9.5": everywhere | {"json-config"},
    }


@pytest.mark.parametrize("version", RELEASES)
def test_every_patch_says_why_and_where_it_stands_upstream(version: str) -> None:
    for path in (REPOSITORY / "patches" / version).glob("*.patch"):
        title, blank, *body = path.read_text().partition("\n--- ")[0].splitlines()
        assert title and len(title) <= 72 and blank == "", path
        assert any(line.startswith("Upstream: ") for line in body), path
        assert len([line for line in body if line]) >= 3, path


@pytest.mark.parametrize("release", load_releases(), ids=lambda release: release.version)
def test_the_manifest_lists_every_set_of_patches_of_every_file(release: catalogue.Release) -> None:
    touched = {file for patch in release.patches.values() for file in patch.diffs}
    assert set(release.states) == touched
    for file in touched:
        assert sorted(map(state_key, release.states[file].values())) == sorted(
            map(state_key, every_state(release.touching(file)))
        )
    for patch in release.patches.values():
        assert set(patch.requires) <= set(release.patches) - {patch.name}


def test_requirements_go_both_ways() -> None:
    release = load_releases()[-1]
    assert release.with_required(["webui-auto"]) == {"webui-auto", "native-auto"}
    assert release.with_dependents(["native-auto"]) == {"webui-auto", "native-auto"}
    assert release.with_required(["json-config"]) == release.with_dependents(["json-config"]) == {"json-config"}


def test_the_table_in_the_readme_is_that_of_the_patches() -> None:
    rows = [line.split("|")[1:-1] for line in (REPOSITORY / "patches" / "README.md").read_text().splitlines()]
    table = {row[0].strip().strip("`"): row[-1].strip() for row in rows if row and row[0].strip().startswith("`")}
    releases: dict[str, list[str]] = {}
    for release in load_releases():
        for name in release.patches:
            releases.setdefault(name, []).append(release.version)
    assert table == {name: ", ".join(versions) for name, versions in releases.items()}


@pytest.mark.parametrize("layout", ["wheel", "checkout"])
def test_patches_are_found_from_a_wheel_and_from_a_checkout(layout: str, tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "lf_autoworkers", tmp_path / "lf_autoworkers", ignore=ignore)
    place = tmp_path / ("lf_autoworkers/_patches" if layout == "wheel" else "patches")
    shutil.copytree(REPOSITORY / "patches", place)
    code = "from lf_autoworkers.patching import catalogue as c; c.load_releases(); print(c.patches_directory())"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert found.stdout.strip() == str(place)


def test_damaged_patches_are_a_sentence(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "patches", tmp_path / "patches")
    manifest = tmp_path / "patches" / "manifest.json"
    manifest.write_text("{")
    with pytest.raises(PatchError, match="cannot be read"):
        load_releases(tmp_path / "patches")
    manifest.write_text(json.dumps({"0.9.5": ["no files"]}))
    with pytest.raises(PatchError, match="cannot be read"):
        load_releases(tmp_path / "patches")


def test_a_patch_outside_the_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.patch").write_text("title\n\n--- a/setup.py\n+++ b/setup.py\n@@ -1 +1 @@\n-a\n+b\n")
    with pytest.raises(PatchError, match=r"changes setup\.py, outside src/llamafactory/"):
        catalogue.load_patches(tmp_path)


def test_the_installed_release_is_the_one_the_patches_were_made_for(make_package: Callable[..., Path]) -> None:
    from lf_autoworkers.patching.tree import read_tree

    tree = read_tree(make_package(release="0.9.5"), load_releases())
    assert (tree.release.version, tree.foreign, tree.begun()) == ("0.9.5", (), frozenset())
