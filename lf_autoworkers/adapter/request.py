"""What a LLaMA-Factory config asks of the plan: raw arguments -> `Request`.

Covers LLaMA-Factory's, transformers' and accelerate's argument names as far as they decide who loads and what may be
set. The datasets and batch sizes are `workload`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lf_autoworkers.adapter.checkpoint import stored_count
from lf_autoworkers.adapter.config import is_on, whole_number
from lf_autoworkers.plan.decision import (
    LOADER_FIELD,
    PERSISTENT_FIELD,
    PREFETCH_FIELD,
    PREPROCESSING_FIELD,
    V1_LOADER_FIELD,
    Request,
)
from lf_autoworkers.settings import Settings


def make_request(
    arguments: Mapping[str, Any], autos: Mapping[str, str], owned: Collection[str], settings: Settings
) -> Request:
    """Return what is to be decided.

    Args:
        arguments: The raw config.
        autos: The keys that say ``auto``, with the word as written.
        owned: The argument names the command's parser knows; an ``auto`` it does not know is left to it.
        settings: The environment's word.
    """
    loader = next((name for name in (LOADER_FIELD, V1_LOADER_FIELD) if name in autos and name in owned), None)
    return Request(
        loader_field=loader,
        loader_requested=autos.get(loader or ""),
        preprocessing=PREPROCESSING_FIELD in autos and PREPROCESSING_FIELD in owned,
        preprocessing_requested=autos.get(PREPROCESSING_FIELD),
        trains=LOADER_FIELD in owned or V1_LOADER_FIELD in owned,
        prefetch_factor=whole_number(arguments.get(PREFETCH_FIELD)),
        persistent_workers=is_on(arguments[PERSISTENT_FIELD]) if PERSISTENT_FIELD in arguments else None,
        sets_prefetch=PREFETCH_FIELD in owned,
        dispatches_batches=is_on(arguments.get("streaming")) and not _dispatch_is_off(arguments),
        elastic=settings.elastic and loader == LOADER_FIELD,
        guarded=settings.guard == "on",
        forced_loader=settings.dataloader_num_workers,
        forced_preprocessing=settings.preprocessing_num_workers,
        stored_loader=stored_count(arguments, loader),
        reserve_bytes=settings.memory_reserve_bytes,
        tokenized=_holds_files(arguments.get("tokenized_path")),
    )


def _holds_files(folder: object) -> bool:
    try:
        return isinstance(folder, str) and any(Path(folder).iterdir())
    except (OSError, ValueError):
        return False


_V1_WORDS = {"model": "model_name_or_path", "micro_batch_size": "per_device_train_batch_size"}


def in_v0_words(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a v1 config in v0's names as far as they decide what a batch costs; any other config as it is.

    v1 names its datasets by files of its own format, which are not looked into: the template tells what they can hold.
    """
    if V1_LOADER_FIELD not in arguments:
        return arguments
    return {"per_device_train_batch_size": 1, **{_V1_WORDS.get(name, name): arguments[name] for name in arguments}}


def _dispatch_is_off(arguments: Mapping[str, Any]) -> bool:
    """Return whether ``accelerator_config`` (a dict, JSON text or a JSON file) turns ``dispatch_batches`` off."""
    config = arguments.get("accelerator_config")
    if isinstance(config, str):
        try:
            config = json.loads(config if config.lstrip().startswith("{") else Path(config).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False  # transformers will say what is wrong with it
    value = config.get("dispatch_batches") if isinstance(config, Mapping) else None
    return (isinstance(value, int) and value == 0) or (isinstance(value, str) and value.strip().lower() == "false")
