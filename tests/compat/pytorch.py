"""``python -m tests.compat.pytorch 2.6.0 --python python3.12``: the loader's and the hook's tests on another PyTorch.

Covers one environment a PyTorch, without LLaMA-Factory, and those tests that need none. What LLaMA-Factory itself does
on a PyTorch is in `__main__`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.compat.environment import REPOSITORY, CompatError, Release, build

PINS = {
    "transformers": "5.6.0",
    "pytest": "8.4.2",
    "pytest-mock": "3.15.1",
    "hypothesis": "6.140.0",
}
TESTS = (
    "tests/unit/elastic",
    "tests/unit/adapter/test_parser_hook.py",
    "tests/unit/test_activate.py",
    "tests/property/test_elastic_programs.py",
    "tests/property/test_elastic_state.py",
)
TIMEOUT_S = 1500


def run(torch: str, folder: Path, python: str) -> tuple[str, bool]:
    """Return pytest's last line, or why it could not be run, and whether all passed."""
    try:
        target = build(Release(f"torch-{torch}", {"torch": torch, **PINS}, ()), folder / "env", python, None)
    except CompatError as error:
        return str(error), False
    place = folder / "checks"
    shutil.copytree(REPOSITORY / "tests", place / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", place)
    # Deprecations of a PyTorch that is newer or older than the one the tests are written for are no failures.
    command = [str(target), "-m", "pytest", "-q", "-o", "filterwarnings=default", "-p", "no:cacheprovider", *TESTS]
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command, cwd=place, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]]
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            print(line, flush=True)
    return re.sub(r"^=+ | =+$", "", lines[-1]), done.returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run each PyTorch named; 0 if all passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.compat.pytorch", description=__doc__)
    parser.add_argument("torch", nargs="+", help="a version of torch")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to build the environments on")
    options = parser.parse_args(arguments)
    passed = True
    for torch in options.torch:
        with tempfile.TemporaryDirectory(prefix=f"torch-{torch}-") as place:
            said, good = run(torch, Path(place), options.python)
        passed = passed and good
        print(f"torch {torch}, {options.python}: {said}", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
