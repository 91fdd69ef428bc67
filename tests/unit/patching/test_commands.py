"""status, apply, revert and diff on the released files of 0.9.5."""

from __future__ import annotations

import itertools
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from lf_autoworkers import patching
from lf_autoworkers.errors import PatchError
from lf_autoworkers.patching.catalogue import load_releases
from tests.unit.patching.trees import fingerprint

EVERY = ("fingerprint", "json-config", "native-auto", "streaming-shards", "webui-auto")
RELEASE = next(release for release in load_releases() if release.version == "0.9.5")


def state_of(package: Path) -> dict[str, str]:
    """{file: state} as ``status`` prints it."""
    lines = patching.status(package).text
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith("  ") and ".py " in line}


def applied_in(package: Path) -> set[str]:
    return {line.split()[0] for line in patching.status(package).text if " applied " in line}


def test_apply_then_revert_is_the_identity(package: Path, state: Path) -> None:
    before = fingerprint(package)
    assert set(state_of(package).values()) == {"pristine"}
    assert not state.exists()  # a question leaves no trace

    outcome = patching.apply(path=package)
    assert outcome.exit_code == 0
    assert outcome.text[0] == f"Applied: {', '.join(EVERY)}."
    assert state_of(package)["hparams/parser.py"] == "patched: json-config, native-auto"
    assert applied_in(package) == set(EVERY)
    for file in before:
        compile((package / file).read_bytes(), file, "exec")

    outcome = patching.revert(path=package)
    assert (outcome.exit_code, outcome.text[0]) == (0, f"Reverted: {', '.join(EVERY)}.")
    assert fingerprint(package) == before
    assert set(state_of(package).values()) == {"pristine"}


def test_again_is_no_error(package: Path) -> None:
    patching.apply(["json-config"], package)
    after = fingerprint(package)
    again = patching.apply(["json-config"], package)
    assert (again.exit_code, again.text) == (0, ("Already applied: json-config.",))
    assert fingerprint(package) == after
    patching.revert(path=package)
    once_more = patching.revert(path=package)
    assert (once_more.exit_code, once_more.text) == (0, ("Nothing to revert: the patches are not applied.",))


@pytest.mark.parametrize("size", range(1, len(EVERY) + 1))
def test_any_patches_in_any_order(size: int, make_package: Callable[..., Path]) -> None:
    """Every set of patches of ``size``, put in and taken out one by one in two orders each."""
    rng = random.Random(size)
    package = make_package()
    pristine = fingerprint(package)
    results: dict[frozenset[str], dict[str, tuple[str, int]]] = {}
    for names in itertools.combinations(EVERY, size):
        for _ in range(2):
            order = rng.sample(names, len(names))
            for name in order:
                patching.apply([name], package)
            wanted = RELEASE.with_required(names)
            assert applied_in(package) == wanted
            assert fingerprint(package) == results.setdefault(wanted, fingerprint(package))
            for name in rng.sample(order, len(order)):
                patching.revert([name], package)
            patching.revert(path=package)
            assert fingerprint(package) == pristine


def test_what_a_patch_requires_comes_and_goes_with_it(package: Path) -> None:
    assert patching.apply(["webui-auto"], package).text[0] == "Applied: native-auto, webui-auto."
    assert patching.revert(["native-auto"], package).text[0] == "Reverted: native-auto, webui-auto."


def test_a_dry_run_and_diff_show_and_do_not_touch(package: Path, state: Path) -> None:
    before = fingerprint(package)
    shown = patching.apply(["json-config"], package, dry_run=True)
    assert (
        "+        dict_config = OmegaConf.create(json.loads(Path(sys.argv[1]).absolute().read_bytes()))" in shown.text
    )
    assert shown.text[-1] == "Dry run: nothing was changed."
    assert fingerprint(package) == before
    assert not state.exists()

    described = patching.diff(["json-config"], package)
    assert described.text == shown.text[:-1]
    patching.apply(path=package)
    assert patching.diff(["json-config"], package).text == described.text
    undone = patching.revert(["json-config"], package, dry_run=True)
    assert "+        dict_config = OmegaConf.create(json.load(Path(sys.argv[1]).absolute()))" in undone.text


def test_an_unknown_name_is_answered_with_the_known_ones(make_package: Callable[..., Path]) -> None:
    with pytest.raises(
        PatchError, match=r"no patch `jsonconfig` for LLaMA-Factory 0\.9\.5; there are fingerprint, json-"
    ):
        patching.apply(["jsonconfig"], make_package())


def test_a_foreign_file_is_named_and_nothing_changes(package: Path) -> None:
    edited = package / "hparams" / "parser.py"
    edited.write_text(edited.read_text() + "# mine\n")
    before = fingerprint(package)
    with pytest.raises(PatchError) as refusal:
        patching.apply(path=package)
    assert "hparams/parser.py (foreign)" in str(refusal.value)
    assert "pip install --force-reinstall --no-deps llamafactory==0.9.5" in str(refusal.value)
    assert "Nothing was changed. These patches leave them alone: fingerprint, streaming-shards." in str(refusal.value)
    assert fingerprint(package) == before

    status = patching.status(package)
    assert status.exit_code == 1
    assert "  hparams/parser.py            foreign" in status.text
    assert patching.apply(["fingerprint", "streaming-shards"], package).exit_code == 0
    with pytest.raises(PatchError, match=r"hparams/parser\.py"):
        patching.diff(["native-auto"], package)


def test_a_missing_file_is_named(package: Path) -> None:
    (package / "webui" / "runner.py").unlink()
    with pytest.raises(PatchError, match=r"webui/runner\.py \(missing\)"):
        patching.apply(["webui-auto"], package)


def test_a_patched_file_edited_since_is_not_reverted(package: Path) -> None:
    patching.apply(["json-config"], package)
    parser = package / "hparams" / "parser.py"
    parser.write_text(parser.read_text() + "# mine\n")
    before = fingerprint(package)
    with pytest.raises(PatchError, match=r"hparams/parser\.py \(foreign\).*Nothing was changed"):
        patching.revert(path=package)
    assert fingerprint(package) == before


def test_half_a_patch_is_a_finding_and_apply_completes_it(package: Path) -> None:
    pristine = (package / "hparams" / "parser.py").read_bytes()
    patching.apply(["json-config"], package)
    (package / "hparams" / "parser.py").write_bytes(pristine)
    status = patching.status(package)
    assert status.exit_code == 1
    assert any(line.startswith("Only in some of their files: json-config.") for line in status.text)
    patching.apply(["json-config"], package)
    assert patching.status(package).exit_code == 0


def test_no_release_is_recognised(package: Path) -> None:
    for file in RELEASE.states:
        (package / file).write_text("# something else\n")
    with pytest.raises(PatchError, match=r"none of the LLaMA-Factory releases that there are patches for \(0\.9\.3, "):
        patching.status(package)


@pytest.mark.parametrize("newline", [b"\r\n", b"mixed"])
def test_line_endings_stay(newline: bytes, package: Path) -> None:
    for file in RELEASE.states:
        lines = (package / file).read_bytes().split(b"\n")
        ends = [b"\r\n" if newline == b"\r\n" or number % 3 else b"\n" for number in range(len(lines) - 1)]
        (package / file).write_bytes(b"".join(line + end for line, end in zip(lines, [*ends, b""], strict=True)))
    before = fingerprint(package)
    patching.apply(path=package)
    raw = (package / "data" / "loader.py").read_bytes()
    if newline == b"\r\n":
        assert raw.count(b"\n") == raw.count(b"\r\n")
    else:
        assert 0 < raw.count(b"\r\n") < raw.count(b"\n")
    patching.revert(path=package)
    assert fingerprint(package) == before


def test_without_its_records_revert_still_finds_the_way_back(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(package)
    patching.apply(path=package)
    monkeypatch.setenv("XDG_STATE_HOME", str(package.parent / "another user"))
    assert applied_in(package) == set(EVERY)
    patching.revert(path=package)
    assert fingerprint(package) == before


def test_modes_and_hard_links(package: Path, tmp_path: Path) -> None:
    parser = package / "hparams" / "parser.py"
    parser.chmod(0o640)
    cache = tmp_path / "cache.py"
    os.link(parser, cache)
    cached = cache.read_bytes()
    patching.apply(path=package)
    assert stat.S_IMODE(parser.stat().st_mode) == 0o640
    assert cache.read_bytes() == cached != parser.read_bytes()
    assert (cache.stat().st_nlink, parser.stat().st_nlink) == (1, 1)


def test_a_symbolic_link_to_a_cache_leaves_the_cache_alone(package: Path, tmp_path: Path) -> None:
    parser = package / "hparams" / "parser.py"
    cache = tmp_path / "cache.py"
    parser.rename(cache)
    parser.symlink_to(cache)
    cached = cache.read_bytes()
    patching.apply(["json-config"], package)
    assert not parser.is_symlink()
    assert cache.read_bytes() == cached != parser.read_bytes()
    patching.revert(path=package)
    assert parser.read_bytes() == cached


def test_stale_bytecode_goes(package: Path) -> None:
    folder = package / "hparams" / "__pycache__"
    folder.mkdir()
    stale = [folder / "parser.cpython-311.pyc", folder / "parser.cpython-312.opt-1.pyc"]
    kept = folder / "parser_other.cpython-311.pyc"
    for path in (*stale, kept):
        path.write_bytes(b"compiled")
    patching.apply(["json-config"], package)
    assert [path.exists() for path in stale] == [False, False]
    assert kept.exists()


def test_nothing_is_left_in_the_tree(package: Path) -> None:
    before = set(fingerprint(package))
    patching.apply(path=package)
    assert set(fingerprint(package)) == before
