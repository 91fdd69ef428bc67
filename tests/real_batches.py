"""Batches as a real LLaMA-Factory run collates them: its parser, tokenizer, template, dataset and collator.

Covers the steps of its ``sft``, ``dpo`` and ``kto`` workflows up to the training loader, without the training.
Importing this module loads LLaMA-Factory and torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from llamafactory.data import (
    KTODataCollatorWithPadding,
    PairwiseDataCollatorWithPadding,
    SFTDataCollatorWith4DAttentionMask,
    get_dataset,
    get_template_and_fix_tokenizer,
)
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer
from torch.utils.data import DataLoader

Batch = Mapping[str, Any]

_DATASET_STAGE = {"dpo": "rm"}


def batch_bytes(batch: Batch) -> int:
    """Return the bytes of all tensors of ``batch``."""
    return sum(value.numel() * value.element_size() for value in batch.values() if torch.is_tensor(value))


def loader_parts(arguments: Mapping[str, Any]) -> tuple[Any, Callable[[Any], Batch]]:
    """Return the tokenised training dataset and the collator of a run."""
    model_args, data_args, training_args, finetuning_args, _ = get_train_args(dict(arguments))
    stage = finetuning_args.stage
    tokenizer_module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(tokenizer_module["tokenizer"], data_args)
    datasets = get_dataset(
        template, model_args, data_args, training_args, stage=_DATASET_STAGE.get(stage, stage), **tokenizer_module
    )
    common = {
        "template": template,
        "model": load_model(tokenizer_module["tokenizer"], model_args, finetuning_args),
        "pad_to_multiple_of": 8,
        "label_pad_token_id": -100,
        **tokenizer_module,
    }
    if stage == "dpo":
        return datasets["train_dataset"], PairwiseDataCollatorWithPadding(**common)
    if stage == "kto":
        return datasets["train_dataset"], KTODataCollatorWithPadding(**common)
    collator = SFTDataCollatorWith4DAttentionMask(
        block_diag_attn=model_args.block_diag_attn,
        attn_implementation="sdpa",
        compute_dtype=model_args.compute_dtype,
        neat_packing=data_args.neat_packing,
        **common,
    )
    return datasets["train_dataset"], collator


def batches_of_run(arguments: Mapping[str, Any], epochs: int) -> Iterator[Batch]:
    """Yield the batches of ``epochs`` shuffled passes over the training data."""
    dataset, collator = loader_parts(arguments)
    loader = DataLoader(
        dataset,
        arguments["per_device_train_batch_size"],
        shuffle=True,
        collate_fn=collator,
        generator=torch.Generator().manual_seed(0),
    )
    for _ in range(epochs):
        yield from loader
