"""What makes two runs the same job, as far as a learned worker count goes: hardware, dataset, model, batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lf_autoworkers.hardware.facts import Hardware

_KEYS = (
    "model_name_or_path",
    "stage",
    "dataset",
    "eval_dataset",
    "dataset_dir",
    "template",
    "cutoff_len",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "image_max_pixels",
    "video_max_pixels",
    "video_fps",
    "video_maxlen",
)


def job_of(arguments: Mapping[str, Any], hardware: Hardware) -> dict[str, object]:
    """Return the facts that identify the job ``arguments`` describe on ``hardware``."""
    limit = hardware.memory.limit
    return {
        **{key: str(arguments[key]) for key in _KEYS if key in arguments},
        "usable_cpus": hardware.cpu.usable_cpus,
        "memory_limit_bytes": limit[0] if limit else None,
        "local_world_size": hardware.ranks.local_world_size,
        "gpus": [gpu.name for gpu in hardware.gpus.gpus],
    }
