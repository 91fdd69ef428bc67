"""Datasets that behave in one particular way, for the loader's tests."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, get_worker_info


class Numbers(Dataset[Any]):
    """Row k is the tensor [k]; ``before`` is called with k wherever the row is made."""

    def __init__(self, size: int, before: Callable[[int], object] | None = None) -> None:
        self.size, self.before = size, before

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: int) -> torch.Tensor:
        if self.before is not None:
            self.before(row)
        return torch.tensor([row])


class Big(Dataset[torch.Tensor]):
    """Row k is ``floats`` numbers k: large enough for a memory file."""

    def __init__(self, size: int, floats: int = 100_000) -> None:
        self.size, self.floats = size, floats

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: int) -> torch.Tensor:
        return torch.full((self.floats,), float(row))


def in_worker() -> bool:
    """Whether this is a worker process."""
    return get_worker_info() is not None


def dies_on(row: int, times: int, folder: Path) -> Callable[[int], None]:
    """Return a ``before`` that kills its worker on ``row``, the first ``times`` times."""

    def before(at: int) -> None:
        if at == row and in_worker() and len(list(folder.iterdir())) < times:
            (folder / f"{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return before


def hangs_on(row: int, times: int, folder: Path, seconds: float = 600) -> Callable[[int], None]:
    """Return a ``before`` that does not come back on ``row``, the first ``times`` times."""

    def before(at: int) -> None:
        if at == row and in_worker() and len(list(folder.iterdir())) < times:
            (folder / f"{os.getpid()}").touch()
            time.sleep(seconds)

    return before


def fails_on(row: int, error: Exception) -> Callable[[int], None]:
    """Return a ``before`` that raises ``error`` on ``row``, in a worker and out of one."""

    def before(at: int) -> None:
        if at == row:
            raise error

    return before
