"""The oldest release through the driver; all of them by one command (docs/compatibility.md).

0.9.3 is the furthest from what the rest of the tests run on: transformers 4, datasets 3, an older PyTorch.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.compat.__main__ import run
from tests.compat.environment import releases


@pytest.mark.compat
@pytest.mark.real
def test_the_oldest_release(tmp_path: Path) -> None:
    oldest = releases()["0.9.3"]
    try:
        result = run(oldest, tmp_path, sys.executable)
    finally:
        shutil.rmtree(tmp_path / "env", ignore_errors=True)  # 6 GB, which pytest would keep
    assert [name for name, _, _ in result.rows] == ["install", "lab", *oldest.checks], result.rows
    assert result.holds, result.rows


def test_every_toml_names_known_checks_and_whole_pins() -> None:
    from tests.compat.checks import CHECKS as known

    for release in releases().values():
        assert set(release.checks) <= set(known)
        assert {"torch", "torchvision", "torchaudio", "transformers", "datasets", "accelerate"} <= set(release.pins)
        assert release.checkout == ("llamafactory" not in release.pins)
