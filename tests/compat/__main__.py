"""``python -m tests.compat RELEASE ...``: an environment a release, every check in it, one table.

Covers the command line and the table. `environment` builds, `checks` runs in what was built.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.compat.environment import CompatError, Release, build, copy_checks, releases

CHECK_TIMEOUT_S = 3600
"""All checks of one release; each training has its own, shorter one."""


@dataclass
class Result:
    """What one release gave.

    Attributes:
        release: Its name.
        versions: What was installed, in words.
        rows: Check, problem (``None``: it holds) and seconds, in order.
    """

    release: str
    versions: str = "not installed"
    rows: list[tuple[str, str | None, float]] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every check was run and holds."""
        return bool(self.rows) and all(problem is None for _, problem, _ in self.rows)

    def as_table(self) -> str:
        """Return the rows as a Markdown table under a line with the versions."""
        lines = [f"**{self.release}** ({self.versions})", "", "| check | result | seconds |", "| --- | --- | ---: |"]
        lines += [f"| {name} | {'FAILED' if problem else 'pass'} | {taken:.0f} |" for name, problem, taken in self.rows]
        return "\n".join(lines)


def run(release: Release, folder: Path, python: str, checkout: Path | None = None, only: Sequence[str] = ()) -> Result:
    """Build the environment of ``release`` in ``folder``, run its checks (or ``only`` those) and say how each went."""
    result = Result(release.name)
    begun = time.monotonic()
    try:
        target = build(release, folder / "env", python, checkout)
    except CompatError as error:
        result.rows.append(("install", str(error), time.monotonic() - begun))
        return result
    result.rows.append(("install", None, time.monotonic() - begun))
    copy_checks(folder / "checks")
    wanted = [name for name in release.checks if not only or name in only]
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with subprocess.Popen(
        [str(target), "-m", "tests.compat.checks", str(folder), *wanted],
        cwd=folder / "checks",
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as checking:
        assert checking.stdout is not None
        other = []
        for line in checking.stdout:
            if not line.startswith("@@"):
                other.append(line)
                continue
            told = json.loads(line.removeprefix("@@"))
            if "versions" in told:
                names = [f"{name} {version}" for name, version in told["versions"].items()]
                result.versions = ", ".join([f"Python {told['python']}", *names])
                continue
            result.rows.append((told["check"], told["problem"], told["seconds"]))
            print(f"{release.name} {told['check']:<8} {'FAILED' if told['problem'] else 'pass'}", flush=True)
            if told["problem"]:
                print(told["problem"], flush=True)
    missing = set(wanted) - {name for name, _, _ in result.rows}
    if missing or checking.returncode != 0:
        result.rows.append((f"({', '.join(sorted(missing))} not run)", "".join(other[-40:]), 0.0))
        print("".join(other[-40:]))
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the releases named and print their tables; 0 if everything holds."""
    known = releases()
    parser = argparse.ArgumentParser(prog="python -m tests.compat", description=__doc__)
    parser.add_argument("release", nargs="*", help=f"one of {', '.join(known)}")
    parser.add_argument("--all", action="store_true", help="every release on PyPI")
    parser.add_argument("--checkout", type=Path, help="LLaMA-Factory's sources, for the release main")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in DIR and leave it, instead of a temporary one")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to build environments on")
    parser.add_argument("--pin", action="append", default=[], metavar="NAME=VERSION", help="replace a pin")
    parser.add_argument("--only", action="append", default=[], metavar="CHECK", help="run this check alone")
    options = parser.parse_args(arguments)
    names = [name for name, release in known.items() if options.all and not release.checkout]
    names += [name for name in options.release if name not in names]
    unknown = [name for name in names if name not in known]
    if not names or unknown:
        parser.error(f"unknown release {', '.join(unknown)}" if unknown else "name a release, or --all")
    if any(known[name].checkout for name in names) != (options.checkout is not None):
        parser.error("the release main, and no other, takes --checkout DIR")
    if options.checkout is not None and not (options.checkout / "src" / "llamafactory").is_dir():
        parser.error(f"{options.checkout} holds no src/llamafactory")
    pins = dict(pin.split("=", 1) for pin in options.pin)
    results = []
    for name in names:
        folder = Path(tempfile.mkdtemp(prefix=f"compat-{name}-", dir=options.keep)).resolve()
        checkout = options.checkout if known[name].checkout else None
        try:
            results.append(run(known[name].with_pins(pins), folder, options.python, checkout, options.only))
        finally:
            if options.keep is None:
                shutil.rmtree(folder, ignore_errors=True)
    print("\n" + "\n\n".join(result.as_table() for result in results))
    return 0 if all(result.holds for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
