"""One older release under pytest (``pytest -m compat``); all of them by one command (docs/compatibility.md).

0.9.3 is the furthest from what the rest of the tests run on: transformers 4, datasets 3. To be quick it takes this
environment's PyTorch, whose files are linked or cached already.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from tests.compat.__main__ import run
from tests.compat.environment import releases

CHECKS = ("doctor", "image", "patched")


@pytest.mark.compat
@pytest.mark.real
@pytest.mark.long  # several GB of wheels a second time
def test_the_oldest_release(tmp_path: Path) -> None:
    pins = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "torchaudio")}
    result = run(releases()["0.9.3"].with_pins(pins), tmp_path, sys.executable, only=CHECKS)
    assert [name for name, _, _ in result.rows] == ["install", "lab", *CHECKS], result.rows
    assert result.holds, result.rows


def test_every_toml_names_known_checks_and_whole_pins() -> None:
    from tests.compat.checks import CHECKS as known

    for release in releases().values():
        assert set(release.checks) <= set(known)
        assert {"torch", "torchvision", "torchaudio", "transformers", "datasets", "accelerate"} <= set(release.pins)
        assert release.checkout == ("llamafactory" not in release.pins)
