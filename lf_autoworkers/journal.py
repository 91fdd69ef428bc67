"""The run's journal: what was decided and what happened, one JSON object a line.

Covers writing and reading ``<output_dir>/autoworkers_log.jsonl``. What is written is up to `steering` and `adapter`;
`report` makes a page of it.

Every line has ``time`` (Unix seconds), ``step`` (training steps finished) and ``event``. Lines are appended, so that a
resumed run goes on in the same file. A journal never costs a run: after the first write that fails it says so once and
is silent from then on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

JOURNAL_NAME = "autoworkers_log.jsonl"


class Journal:
    """Appends events to a file, from any thread."""

    def __init__(self, path: Path | None, logger: logging.Logger, clock: Callable[[], float] = time.time) -> None:
        """Prepare the journal; the file and its directory are made with the first event.

        Args:
            path: The file; ``None`` for a journal that keeps nothing (ranks other than a node's first).
            logger: Where the one warning goes if it cannot be written.
            clock: Seconds since the epoch.
        """
        self.path = path
        self._logger = logger
        self._clock = clock
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._pid = os.getpid()

    def write(self, event: str, step: int, **fields: Any) -> None:
        """Append one event. Numbers that JSON does not know (infinity) become ``null``. Never raises."""
        if self.path is None or os.getpid() != self._pid:
            return
        line = {"time": round(self._clock(), 3), "step": step, "event": event}
        line.update({key: _plain(value) for key, value in fields.items()})
        with self._lock:
            try:
                if self._descriptor is None:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                    self._descriptor = os.open(self.path, flags, 0o644)
                # One write per line: a reader or a killed process never leaves two lines mixed.
                os.write(self._descriptor, (json.dumps(line, separators=(",", ":")) + "\n").encode())
            except (OSError, TypeError, ValueError) as error:
                path, self.path = self.path, None
                self._logger.warning(
                    "the journal %s cannot be written (%s): this run goes on without one; `lf-autoworkers report` will"
                    " not see what happens from here on",
                    path,
                    getattr(error, "strerror", None) or error,
                )

    def close(self) -> None:
        """Close the file; later events open it again."""
        with self._lock:
            if self._descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(self._descriptor)
                self._descriptor = None


def read_journal(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the events of a journal in order; a line cut off by a crash is left out.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                yield event


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3) if math.isfinite(value) else None
    if isinstance(value, (str, int, type(None))):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)
