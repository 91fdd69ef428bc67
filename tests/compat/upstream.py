"""``python -m tests.compat.upstream 0.9.5 --checkout DIR``: LLaMA-Factory's own tests with the plugin and without.

Covers one environment, the tests of a checkout run in it twice, offline and on the CPU, the plugin uninstalled before
the second time, and a comparison test by test. What needs a hub fails or is skipped both times, and is told as that.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.compat.environment import build, releases, uninstall

PINS = {"pytest": "8.4.2"}
SUITE_TIMEOUT_S = 1800


def outcomes(python: Path, checkout: Path, report: Path) -> Mapping[str, str]:
    """Run the checkout's tests and return test -> passed, failed, error or skipped."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LF_AUTOWORKERS_", "PYTHONPATH"))}
    environ = {**kept, "HF_HUB_OFFLINE": "1", "HF_HOME": str(report.parent / "hf"), "CUDA_VISIBLE_DEVICES": ""}
    folders = [name for name in ("tests", "tests_v1") if (checkout / name).is_dir()]
    ignored = ["--ignore=tests/e2e"]  # starts servers and trains models of a hub
    seen: dict[str, str] = {}
    for folder in folders:  # each has a conftest.py of its own
        command = [
            str(python),
            "-m",
            "pytest",
            folder,
            *ignored,
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
        ]
        subprocess.run(
            command, cwd=checkout, env=environ, stdout=subprocess.DEVNULL, timeout=SUITE_TIMEOUT_S, check=False
        )
        for case in xml.parse(report).getroot().iter("testcase"):
            kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
            seen[f"{case.get('classname')}::{case.get('name')}"] = kinds[0] if kinds else "passed"
        report.unlink()
    return seen


def compare(with_plugin: Mapping[str, str], without: Mapping[str, str]) -> list[str]:
    """Return one line for each test that ended differently."""
    return [
        f"{name}: {with_plugin.get(name, 'missing')} with the plugin, {without.get(name, 'missing')} without"
        for name in sorted(with_plugin.keys() | without.keys())
        if with_plugin.get(name) != without.get(name)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both and print the figures; 0 if every test ended the same way."""
    known = releases()
    parser = argparse.ArgumentParser(prog="python -m tests.compat.upstream", description=__doc__)
    parser.add_argument("release", choices=list(known))
    parser.add_argument("--checkout", type=Path, required=True, help="LLaMA-Factory's repository at that release")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to build the environment on")
    options = parser.parse_args(arguments)
    release = known[options.release].with_pins(PINS)
    with tempfile.TemporaryDirectory(prefix="upstream-") as place:
        folder = Path(place)
        python = build(release, folder / "env", options.python, options.checkout if release.checkout else None)
        report = folder / "report.xml"
        with_plugin = outcomes(python, options.checkout, report)
        uninstall(python)
        without = outcomes(python, options.checkout, report)
    for title, found in (("with the plugin", with_plugin), ("without", without)):
        print(f"{title:<16}" + ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(found.values()).items())))
    differences = compare(with_plugin, without)
    print("\n".join(differences) or "every test ended the same way")
    return 1 if differences or not with_plugin else 0


if __name__ == "__main__":
    raise SystemExit(main())
