"""Imports point one way, and nothing heavy is imported where it must not be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "lf_autoworkers"
ORDER = (
    {"errors", "units", "settings", "journal", "history", "_activate"},
    {"hardware"},
    {"workload"},
    {"plan"},
    {"elastic"},
    {"steering"},
    {"adapter"},
    {"report", "doctor", "patching", "demo", "runner", "_run"},
    {"cli", "__main__"},
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
FRAMEWORKS = ("llamafactory", "transformers", "accelerate", "datasets", "trl", "peft")
MAY_NAME_FRAMEWORKS = {"adapter", "patching", "demo"}


def imports(path: Path) -> set[str]:
    """Return every module that ``path`` imports, at its top or later, absolute."""
    package = ("lf_autoworkers", *path.relative_to(PACKAGE).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "lf_autoworkers" and len(parts) > 1 and parts[1] in RANK and parts[1] != room:
            fires = room == "_activate" and module.startswith("lf_autoworkers.adapter.parser_hook")
            assert fires or RANK[parts[1]] <= RANK[room], f"{path} imports {module}"
        if parts[0] in FRAMEWORKS:
            assert room in MAY_NAME_FRAMEWORKS, f"{path} imports {module}"


def test_the_order_names_every_room() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert rooms <= set(RANK)


def loaded_by(code: str) -> set[str]:
    """Return the modules a fresh interpreter has after ``code``."""
    program = f"{code}\nimport sys\nprint('@@' + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("@@")[2].split())


def test_a_python_that_imports_no_torch_has_none_of_our_modules() -> None:
    assert not {name for name in loaded_by("import json") if name.startswith("lf_autoworkers")}


def test_the_entry_point_needs_only_sys_and_os() -> None:
    extra = loaded_by("import lf_autoworkers._activate as a; a.activate()") - loaded_by("pass")
    assert {name for name in extra if not name.startswith("lf_autoworkers")} == set()
    assert {name for name in extra if name.startswith("lf_autoworkers")} == {
        "lf_autoworkers",
        "lf_autoworkers._activate",
    }


def test_torch_alone_brings_only_the_entry_point() -> None:
    pytest.importorskip("torch")
    ours = {name for name in loaded_by("import torch") if name.startswith("lf_autoworkers")}
    assert ours == {"lf_autoworkers", "lf_autoworkers._activate"}


def test_explaining_imports_neither_torch_nor_llamafactory(tmp_path: Path) -> None:
    config = tmp_path / "a.yaml"
    config.write_text("dataset: x\ntemplate: qwen2_vl\ndataloader_num_workers: auto\npreprocessing_num_workers: auto\n")
    modules = loaded_by(f"from lf_autoworkers.cli import main\nmain(['explain', {str(config)!r}])")
    assert not modules & {"torch", *FRAMEWORKS}
