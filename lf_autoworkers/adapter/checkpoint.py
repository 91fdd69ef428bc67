"""The loader count that travels with a checkpoint, for runs whose order or state depends on it.

A streamed dataset has one shard a worker, so another count is another order; v1's stateful loader refuses to resume
with a count other than the saved one. Covers finding the checkpoint a run will resume from and reading the count;
`save_count` writes it. A map-style dataset's order does not depend on the count, and nothing is stored for it.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lf_autoworkers.adapter.config import is_on, whole_number
from lf_autoworkers.plan.decision import LOADER_FIELD, V1_LOADER_FIELD
from lf_autoworkers.settings import MAX_WORKERS

COUNT_FILE = "autoworkers.json"
V1_MARKER = "CHECKPOINT_COMPLETE"
"""The file v1 puts into a checkpoint once it is whole; it resumes from no other."""

_CHECKPOINT = re.compile(r"checkpoint-([0-9]+)")


def save_count(checkpoint: Path, count: int) -> None:
    """Write ``count`` into the folder ``checkpoint``; raises ``OSError`` as writing a file does."""
    (checkpoint / COUNT_FILE).write_text(json.dumps({LOADER_FIELD: count}) + "\n", encoding="utf-8")


def stored_count(arguments: Mapping[str, Any], loader: str | None) -> int | None:
    """Return the count that the checkpoint to be resumed was made with, where it must be used again, else ``None``."""
    if loader == V1_LOADER_FIELD:
        checkpoint = _v1_checkpoint(arguments)
        return _v1_count(checkpoint) if checkpoint else None
    if loader != LOADER_FIELD or not is_on(arguments.get("streaming")):
        return None
    checkpoint = _checkpoint(arguments)
    if checkpoint is None:
        return None
    try:
        stored = json.loads((checkpoint / COUNT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return _bounded(whole_number(stored.get(LOADER_FIELD))) if isinstance(stored, dict) else None


def _bounded(count: int | None) -> int | None:
    return count if count is not None and 0 <= count <= MAX_WORKERS else None


def _newest(folder: Path, complete: str = "") -> Path | None:
    """Return the checkpoint with the highest step in ``folder`` that holds the file ``complete``, if one is named."""
    try:
        steps = [(int(match[1]), path) for path in folder.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))]
    except (OSError, ValueError):
        return None
    steps = [(step, path) for step, path in steps if (path / complete).exists()]
    return max(steps, default=(0, None), key=lambda pair: pair[0])[1]


def _checkpoint(arguments: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint LLaMA-Factory will resume from: the one named, else the newest in ``output_dir``."""
    named, output = arguments.get("resume_from_checkpoint"), arguments.get("output_dir")
    if isinstance(named, str) and named.strip().lower() not in ("", "none", "null", "true", "false"):
        return Path(named)
    if not isinstance(output, str) or named is False or is_on(arguments.get("overwrite_output_dir")):
        return None
    return _newest(Path(output))


def _v1_checkpoint(arguments: Mapping[str, Any]) -> Path | None:
    named, output = arguments.get("resume_from_checkpoint"), arguments.get("output_dir")
    if not isinstance(named, str) or not named.strip():
        return None
    if named.strip().lower() != "auto":
        return Path(named)
    return _newest(Path(output), complete=V1_MARKER) if isinstance(output, str) else None


class _Opaque:
    """Stands for every class in a saved state we do not need to know."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __call__(self, *args: object) -> _Opaque:
        return self


class _NumbersOnly(pickle.Unpickler):
    """Reads plain containers and numbers; builds nothing else, so that a checkpoint cannot run code here."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        return _Opaque

    def persistent_load(self, pid: object) -> Any:
        return _Opaque()


def _v1_count(checkpoint: Path) -> int | None:
    """Return ``_num_workers`` of the stateful loader's saved state, read without torch; ``None`` if it is not there."""
    try:
        with zipfile.ZipFile(checkpoint / "dataloader" / "rank_0.pt") as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            state = _NumbersOnly(io.BytesIO(archive.read(name))).load()
    except Exception:  # a damaged checkpoint is for LLaMA-Factory to report
        return None
    return _search(state, 0)


def _search(state: object, depth: int) -> int | None:
    if not isinstance(state, dict) or depth > 6:
        return None
    for key, value in state.items():
        if key == "_num_workers":
            return _bounded(whole_number(value))
        found = _search(value, depth + 1)
        if found is not None:
            return found
    return None
