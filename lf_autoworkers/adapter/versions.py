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


_ELASTIC = "elastic loader"
_GUARD = "memory guard at the trainer's steps"

SEAMS = (
    Seam("transformers.hf_argparser", "HfArgumentParser.parse_dict", "auto in YAML, JSON and dicts"),
    Seam("transformers.hf_argparser", "HfArgumentParser.parse_args_into_dataclasses", "auto on the command line"),
    Seam("transformers.trainer", "DEFAULT_CALLBACKS", _GUARD),
    Seam("transformers.trainer", "TrainerCallback", _GUARD),
    Seam("transformers.trainer", "Trainer.add_callback", "count stored with checkpoints"),
    Seam("transformers.trainer", "Trainer.get_train_dataloader", _ELASTIC),
    Seam("transformers.trainer", "Trainer.get_eval_dataloader", _ELASTIC),
    Seam("transformers.trainer", "Trainer.get_test_dataloader", _ELASTIC),
    Seam("llamafactory.hparams.data_args", "DataArguments.preprocessing_num_workers", "stable dataset fingerprint"),
    Seam("datasets.utils._dill", "pklregister", "stable dataset fingerprint"),
    Seam("datasets.utils._dill", "Pickler.dispatch", "stable dataset fingerprint"),
    Seam("datasets.arrow_dataset", "Dataset.to_iterable_dataset", "shard for every streaming worker"),
    Seam("accelerate.data_loader", "DataLoaderShard", _ELASTIC),
    *(
        Seam(module, f"{owner}.{name}".lstrip("."), _ELASTIC)
        for module, owner, names in (
            ("torch.utils.data", "DataLoader", "_get_iterator _auto_collation _index_sampler"),
            ("torch.utils.data", "", "MapDataPipe"),
            ("torch.utils.data", "_DatasetKind", "Map create_fetcher"),
            ("torch.utils.data.dataloader", "_BaseDataLoaderIter", "_reset _next_index _next_data __next__"),
            ("torch.utils.data._utils", "worker", "WorkerInfo _worker_info _generate_state"),
            ("torch.utils.data._utils", "pin_memory", "pin_memory"),
            ("torch.utils.data._utils", "signal_handling", "_set_worker_signal_handlers"),
            ("torch", "", "accelerator default_generator"),
            ("torch.multiprocessing", "", "_set_thread_name"),
        )
        for name in names.split()
    ),
)
"""What is missing costs what `Seam.needed_for` says, and one line in the log; the rest of the run is as ever. Without
the parser's methods LLaMA-Factory reads no config itself. The rows of torch are those that `elastic.installation`
checks before it takes over a loader."""

RUN_WITH: dict[str, tuple[str, str]] = {
    "llamafactory": ("0.9.3", "0.9.5"),
    "torch": ("2.6", "2.15"),
    "transformers": ("4.52", "5.8"),
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
