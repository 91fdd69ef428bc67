"""The model's folder on this machine, the sizes of its weight files, and where its optimizer's state will be.

Covers a local folder, the snapshot that huggingface_hub keeps of a model it has downloaded, and DeepSpeed's config.
Nothing is fetched.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def model_folder(model: str | None) -> Path | None:
    """Return the folder that ``model_name_or_path`` stands for; ``None`` where it is not on this machine."""
    if model is None:
        return None
    folder = Path(model)
    try:
        if folder.is_dir():
            return folder
        home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    except (OSError, ValueError, RuntimeError):  # no folder anybody could read, or a user without a home
        return None
    if model.count("/") != 1:
        return None
    repository = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{model.replace('/', '--')}"
    try:
        revision = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    snapshot = repository / "snapshots" / revision
    return snapshot if snapshot.is_dir() else None


def weight_files(folder: Path | None) -> tuple[int, ...]:
    """Return the sizes in bytes of the weight files in ``folder``: safetensors, or PyTorch's where there are none."""
    if folder is None:
        return ()
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        try:
            sizes = tuple(file.stat().st_size for file in sorted(folder.glob(pattern)))
        except OSError:
            continue
        if sizes:
            return sizes
    return ()


def offloads_optimizer(deepspeed: object) -> bool:
    """Return whether a DeepSpeed config (a file, JSON text or a dict) keeps optimizer state in host memory."""
    config: Any = deepspeed
    if isinstance(deepspeed, str):
        try:
            inline = deepspeed.lstrip().startswith("{")
            config = json.loads(deepspeed if inline else Path(deepspeed).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False  # DeepSpeed will say what is wrong with it
    for key in ("zero_optimization", "offload_optimizer"):
        config = config.get(key) if isinstance(config, Mapping) else None
    return isinstance(config, Mapping) and config.get("device") == "cpu"
