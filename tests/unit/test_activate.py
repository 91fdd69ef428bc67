"""The entry point: harmless, idempotent, and right whatever was imported first."""

from __future__ import annotations

import subprocess
import sys

import pytest

HOOKED = "hasattr(__import__('transformers').HfArgumentParser.parse_dict, '__lf_autoworkers__')"


def python(code: str, **environ: str) -> str:
    """Run ``code`` in a fresh interpreter and return what it printed."""
    import os

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "first",
    [
        "import torch, transformers.hf_argparser",
        "import transformers.hf_argparser, torch",
        "import torch; from transformers import HfArgumentParser",
        "from transformers import HfArgumentParser; import torch",
        "import torch; from lf_autoworkers._activate import activate; activate(); activate()",
    ],
)
def test_the_parser_is_hooked_in_any_order_of_imports(first: str) -> None:
    assert python(f"{first}\nprint({HOOKED})") == "True"


def test_nothing_waits_on_the_meta_path_once_the_parser_is_there() -> None:
    code = (
        "import torch, sys, transformers.hf_argparser\nprint([f for f in sys.meta_path if 'lf_auto' in str(type(f))])"
    )
    assert python(code) == "[]"


def test_a_failure_while_arming_never_reaches_import_torch() -> None:
    code = (
        "import sys, types\n"
        "broken = types.ModuleType('lf_autoworkers.adapter.parser_hook')\n"  # has no install()
        "sys.modules['lf_autoworkers.adapter.parser_hook'] = broken\n"
        "import torch, transformers.hf_argparser\n"
        "from lf_autoworkers import _activate\n"
        f"print(type(_activate.failure).__name__, {HOOKED})"
    )
    assert python(code, LF_AUTOWORKERS_LOG="debug") == "ImportError False"


def test_the_source_of_the_parser_is_still_found() -> None:
    code = "import torch, inspect\nfrom transformers import HfArgumentParser as P\nprint(inspect.getsource(P)[:22])"
    assert python(code) == "class HfArgumentParser"


def test_a_module_that_is_not_as_known_costs_one_line_once_auto_is_resolved() -> None:
    code = (
        "import sys\n"
        "sys.stderr = sys.stdout\n"
        "from lf_autoworkers import _activate\n"
        "import lf_autoworkers.adapter.run\n"
        "_activate.when_imported('wave', lambda module: module.no_such_name)\n"
        "import wave\n"
        "print(type(_activate.failure).__name__, wave.Wave_read.__name__)"
    )
    line, last = python(code).splitlines()
    assert line.startswith("lf-autoworkers: auto: wave is not as we know it (AttributeError: ")
    assert line.endswith("what needs it is left out.")
    assert last == "AttributeError Wave_read"
