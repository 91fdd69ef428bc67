"""Runs LLaMA-Factory's real dataset loading in this process and prints what the plugin made of it as JSON.

Run by `test_run_effects` as a script, one scenario a process: what is armed for a run is process-wide.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer


def load(values: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return the training set LLaMA-Factory makes of ``values``, its training and its data arguments."""
    model, data, training, _finetuning, _generating = get_train_args(values)
    loaded = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data)
    module = get_dataset(template, model, data, training, stage="sft", **loaded)
    return module["train_dataset"], training, data


def fingerprint(values: dict[str, Any]) -> dict[str, Any]:
    """Preprocess and return the fingerprint, how many rows were tokenised, and what the children looked like."""
    from llamafactory.data.processor import SupervisedDatasetProcessor

    rows = Path(os.environ["ROWS_FILE"])
    original = SupervisedDatasetProcessor.preprocess_dataset

    def counted(self: Any, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        torch.ones(256, 256).matmul(torch.ones(256, 256))  # hangs in a child whose parent ran one with more threads
        with rows.open("a") as file:
            file.write(f"{os.getpid()} {torch.get_num_threads()} {len(next(iter(examples.values())))}\n")
        kept: dict[str, list[Any]] = original(self, examples)
        return kept

    counted.__module__, counted.__qualname__ = original.__module__, original.__qualname__
    SupervisedDatasetProcessor.preprocess_dataset = counted
    torch.set_num_threads(2)
    torch.ones(1024, 1024).matmul(torch.ones(1024, 1024))  # an OpenMP region in the parent, before any fork
    threads = torch.get_num_threads()
    dataset, _, data = load(values)
    lines = [line.split() for line in rows.read_text().splitlines()] if rows.exists() else []
    return {
        "number": data.preprocessing_num_workers,
        "fingerprint": dataset._fingerprint,
        "rows": sum(int(line[2]) for line in lines),
        "processes": len({line[0] for line in lines}),
        "child threads": sorted({int(line[1]) for line in lines if int(line[0]) != os.getpid()}),
        "parent threads unchanged": torch.get_num_threads() == threads,
    }


def _worker() -> int:
    worker = torch.utils.data.get_worker_info()
    assert worker is not None
    return worker.id


def streamed(values: dict[str, Any]) -> dict[str, Any]:
    """Return which worker of a real DataLoader read which row, and how many shards there are."""
    dataset, training, _ = load(values)
    loader = torch.utils.data.DataLoader(
        dataset.map(lambda row: {**row, "worker": _worker()}),
        batch_size=None,
        num_workers=training.dataloader_num_workers,
    )
    rows = list(loader)
    return {
        "workers": training.dataloader_num_workers,
        "shards": dataset.num_shards,
        "per worker": Counter(int(row["worker"]) for row in rows),
        "rows": len(rows),
        "distinct": len({str(row["input_ids"]) for row in rows}),
    }


if __name__ == "__main__":
    scenario, values = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    print("@@" + json.dumps({"fingerprint": fingerprint, "streamed": streamed}[scenario](values)))
