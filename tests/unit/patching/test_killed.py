"""A real child, killed with SIGKILL right before each operation that changes the file system."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lf_autoworkers import patching
from tests.unit.patching.trees import fingerprint

#: Two patches that share their two files. All patches together are worth their time once, for apply.
NAMES = ["json-config", "native-auto"]

#: Arguments: the number of the operation to die before, the command's name and its arguments. Python announces each
#: operation in advance.
CHILD = """
import os, signal, sys
from lf_autoworkers import patching

last, command, *arguments = sys.argv[1:]
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.chmod", "os.chown", "fcntl.flock"}
count = 0

def watch(event, about):
    global count
    writes = event == "open" and isinstance(about[2], int) and about[2] & (os.O_WRONLY | os.O_RDWR)
    if event in CHANGES or writes:
        count += 1
        if count == int(last):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
tree, *names = arguments
patching.status(tree) if command == "status" else getattr(patching, command)(names, tree)
"""


def run(command: str, tree: Path, names: list[str], last: int) -> bool:
    """Run ``command`` until its operation number ``last``; whether it was killed there."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(last), command, str(tree), *names],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.returncode in (0, -signal.SIGKILL), child.stderr
    return child.returncode != 0


@pytest.mark.parametrize(("command", "names"), [("apply", []), ("revert", NAMES)])
def test_killed_at_every_step(
    command: str, names: list[str], make_package: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = make_package("sample")
    pristine = fingerprint(sample)
    patching.apply(names, sample)
    patched = fingerprint(sample)
    before, after = (pristine, patched) if command == "apply" else (patched, pristine)

    seen = {"before": 0, "after": 0}
    for last in range(1, 500):
        tree = make_package(f"tree{last}")
        monkeypatch.setenv("XDG_STATE_HOME", str(tree.parent / "state"))
        if command == "revert":
            patching.apply(names, tree)
        killed = run(command, tree, names, last)
        torn = {file: found for file, found in fingerprint(tree).items() if not file.endswith(".lf-autoworkers")}
        assert all(found in (before[file], after[file]) for file, found in torn.items())

        patching.status(tree)
        whole = fingerprint(tree)
        assert whole in (before, after), f"killed before operation {last}"
        seen["before" if whole == before else "after"] += 1
        assert patching.status(tree).exit_code == 0
        getattr(patching, command)(names, tree)
        assert fingerprint(tree) == after
        patching.revert(path=tree)
        assert fingerprint(tree) == pristine
        if not killed:
            break
    else:
        pytest.fail("the command never came to its end")
    # Enough steps for each file to have been written, renamed and recorded, and both outcomes were met.
    files = sum(after[file] != before[file] for file in before)
    assert seen["before"] > 4 * files and seen["after"] > 2, seen


def test_a_repair_killed_at_every_step(make_package: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pristine = fingerprint(make_package("sample"))

    def interrupted(name: str) -> Path:
        """A tree whose apply was killed between the renames of its files."""
        for last in range(1, 500):
            tree = make_package(f"{name}-{last}")
            monkeypatch.setenv("XDG_STATE_HOME", str(tree.parent / "state"))
            run("apply", tree, NAMES, last)
            found = fingerprint(tree)
            if sum(found[file] != pristine[file] for file in pristine) == 1:
                interrupted_at.append(last)
                return tree
        raise AssertionError("no step between two renames")

    interrupted_at: list[int] = []
    interrupted("search")
    for last in range(1, 100):
        tree = make_package(f"tree{last}")
        monkeypatch.setenv("XDG_STATE_HOME", str(tree.parent / "state"))
        assert run("apply", tree, NAMES, interrupted_at[0])
        if not run("status", tree, [], last):
            break
        status = patching.status(tree)
        assert status.exit_code == 0
        assert fingerprint(tree) == pristine
    else:
        pytest.fail("the repair never came to its end")
    assert last > 5
    assert fingerprint(tree) == pristine


def test_the_repair_is_told(make_package: Callable[..., Path]) -> None:
    tree = make_package()
    pristine = fingerprint(tree)
    last = 1
    while True:
        assert run("apply", tree, NAMES, last)
        if fingerprint(tree) != pristine:
            break
        patching.status(tree)
        last += 1
    told = patching.status(tree)
    assert told.text[0].startswith("An interrupted change was undone: ")
    assert told.exit_code == 0
    assert [path.name for path in (tree / "hparams").iterdir()] == ["parser.py"]


def test_a_file_changed_by_somebody_else_in_between_is_left_alone(make_package: Callable[..., Path]) -> None:
    tree = make_package()
    pristine = fingerprint(tree)
    last = 1
    while True:
        assert run("apply", tree, [], last)
        found = fingerprint(tree)
        if sum(found.get(file) != pristine[file] for file in pristine) >= 2:
            break
        patching.status(tree)
        last += 1
    (tree / "webui" / "runner.py").write_text("# upgraded meanwhile\n")
    status = patching.status(tree)
    assert status.exit_code == 1
    assert "  webui/runner.py              foreign" in status.text
    left = fingerprint(tree)
    assert {file for file in pristine if left[file] != pristine[file]} == {"webui/runner.py"}
