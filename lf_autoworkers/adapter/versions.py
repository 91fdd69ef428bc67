"""The releases this package was run with, and every place in other packages it touches.

One table, checked by ``doctor`` in a fresh interpreter. A seam that is missing switches off what needs it, at run time,
with one line; it never stops a run.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Seam:
    """One name in another package that something of ours relies on.

    Attributes:
        module: The module it lives in.
        attribute: Its dotted path there.
        needed_for: What is lost without it.
    """

    module: str
    attribute: str
    needed_for: str


SEAMS = (
    Seam("transformers.hf_argparser", "HfArgumentParser.parse_dict", "auto in YAML, JSON and dicts"),
    Seam("transformers.hf_argparser", "HfArgumentParser.parse_args_into_dataclasses", "auto on the command line"),
    Seam("transformers.trainer", "Trainer.add_callback", "counts stored with checkpoints, the memory guard"),
    Seam("llamafactory.hparams.data_args", "DataArguments.preprocessing_num_workers", "a stable dataset fingerprint"),
    Seam("datasets.utils._dill", "pklregister", "a stable dataset fingerprint"),
    Seam("datasets.arrow_dataset", "Dataset.to_iterable_dataset", "a shard for every streaming worker"),
    Seam("torch.utils.data", "DataLoader._get_iterator", "the elastic loader"),
    Seam("accelerate.data_loader", "DataLoaderShard", "the elastic loader under accelerate"),
)

RUN_WITH: dict[str, tuple[str, str]] = {
    "llamafactory": ("0.9.3", "0.9.5"),
    "torch": ("2.5", "2.11"),
    "transformers": ("4.52", "5.6"),
    "datasets": ("3.6", "4.0"),
    "accelerate": ("1.7", "1.11"),
}
"""Oldest and newest release of each that was run, both included (docs/compatibility.md)."""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"[0-9]+", version.partition("+")[0])[:3])


def is_known(distribution: str, version: str) -> bool:
    """Return whether ``version`` lies within the releases of ``distribution`` that were run."""
    low, high = (_numbers(bound) for bound in RUN_WITH[distribution])
    found = _numbers(version)
    return low <= found[: len(low)] and found[: len(high)] <= high


def missing_seams() -> list[Seam]:
    """Import every seam's module and return those that are not there; slow, for ``doctor``'s child alone."""
    missing = []
    for seam in SEAMS:
        try:
            found: object = importlib.import_module(seam.module)
            for name in seam.attribute.split("."):
                found = getattr(found, name)
        except Exception:
            missing.append(seam)
    return missing
