"""Whose turn it is: of the ranks that share one machine's memory, one at a time sheds workers.

Covers the lock file of a node and job. Without it four ranks would see one shortage and shed four workers.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


class Turn:
    """A record lock on a file: a dead rank's is gone with it, and forked workers do not inherit it."""

    def __init__(self, path: Path | None) -> None:
        """Name the file, the same on all ranks of the job on this node; ``None`` where there is but one rank."""
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Return whether this rank may act now. Where no file can be made each rank acts on its own."""
        if self._path is None or self._descriptor is not None:
            return True
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return True
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def give_back(self) -> None:
        """Let the next rank act; harmless without the turn."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):
                os.close(descriptor)
