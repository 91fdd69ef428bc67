#!/usr/bin/env python3
"""Write the parts of docs/ that come from code: the environment table, the guard's constants and the
numbers of the saved machines.

    python scripts/generate_docs.py [--check]

With ``--check`` nothing is written; exit code 1 names the files that are out of date.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from lf_autoworkers.settings import environment_table  # noqa: E402
from lf_autoworkers.steering.limits import limits_table  # noqa: E402
from tests.golden.cases import table  # noqa: E402

BEGIN, END = "<!-- generated: {name} -->\n", "<!-- end -->\n"


def with_section(text: str, name: str, content: str) -> str:
    """Return ``text`` with what stands between the marks of section ``name`` replaced by ``content``."""
    begin = BEGIN.format(name=name)
    before, found, rest = text.partition(begin)
    if not found:
        raise SystemExit(f"no section {name!r}: expected the line {begin.strip()}")
    return before + begin + content + END + rest.partition(END)[2]


def main() -> int:
    """Write, or check, every generated section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for path, name, content in (
        (ROOT / "docs" / "environment.md", "environment", environment_table()),
        (ROOT / "README.md", "environment", environment_table()),
        (ROOT / "docs" / "guard.md", "guard limits", limits_table()),
        (ROOT / "docs" / "how-auto-decides.md", "machines", table()),
    ):
        old = path.read_text(encoding="utf-8")
        new = with_section(old, name, content)
        if new != old:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(new, encoding="utf-8")
    if stale:
        print(("out of date: " if check else "written: ") + ", ".join(stale))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
