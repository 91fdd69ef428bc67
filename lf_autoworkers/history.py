"""What one run learned, kept for the next: the loader count it ended on because memory forced it there.

Covers one small JSON file a job below ``$XDG_STATE_HOME/lf-autoworkers/history``. What identifies a job and when a
count is worth keeping is decided by the adapter; whether the plan uses it, by the plan.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

FOLDER = "history"


def default_folder(environ: Mapping[str, str]) -> Path:
    """Return the state folder of this user: ``$XDG_STATE_HOME/lf-autoworkers``, or the one below the home folder.

    Raises:
        RuntimeError: There is neither (a container with a user of no name).
    """
    state = environ.get("XDG_STATE_HOME", "").strip()
    # A relative path is to be ignored (XDG Base Directory Specification): it would mean another folder in each folder.
    return (Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state") / "lf-autoworkers"


def job_key(job: Mapping[str, object]) -> str:
    """Return the name of a job's file: the same for the same facts in any order."""
    text = json.dumps(dict(job), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def recall(folder: Path, job: Mapping[str, object]) -> int | None:
    """Return the loader count an earlier run of ``job`` settled on; ``None`` if there is none, or none readable."""
    try:
        learned = json.loads((folder / FOLDER / f"{job_key(job)}.json").read_text(encoding="utf-8"))
        count = learned["dataloader_num_workers"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def remember(folder: Path, job: Mapping[str, object], count: int) -> None:
    """Keep ``count`` for the next run of ``job``; raises ``OSError`` where the folder cannot be written."""
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=place, suffix=".tmp", delete=False, encoding="utf-8") as file:
        json.dump({"dataloader_num_workers": count, "job": dict(job)}, file, default=str)
    Path(file.name).replace(place / f"{job_key(job)}.json")


def forget(folder: Path, job: Mapping[str, object]) -> None:
    """Let go of what was learned about ``job``; nothing happens where nothing was."""
    (folder / FOLDER / f"{job_key(job)}.json").unlink(missing_ok=True)
