"""Run inside a source tree of LLaMA-Factory, stock or patched, and report what it does as one JSON line.

    python patching_probe.py FOLDER WHAT [WHAT ...]

A child of ``test_patching_llamafactory.py``; each probe below is one WHAT. FOLDER holds base.json, a training config,
and gets the answers, WHAT-RANK.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

FOLDER, ASKED = Path(sys.argv[1]), sys.argv[2:]


class WithoutPlugin:
    """A finder that lets another one find everything but lf-autoworkers."""

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """As the finder's own, and nothing for the plugin."""
        return None if name.partition(".")[0] == "lf_autoworkers" else self.finder.find_spec(name, path, target)


def hide_plugin() -> None:
    """Make this process what it is in an environment where the plugin is not installed."""
    sys.meta_path[:] = [WithoutPlugin(finder) for finder in sys.meta_path if hasattr(finder, "find_spec")]


def arguments(**more: Any) -> dict[str, Any]:
    """The config in FOLDER with ``more`` in it."""
    base: dict[str, Any] = json.loads((FOLDER / "base.json").read_text())
    return {**base, **more}


def attempt(action: Any) -> Any:
    """The result of ``action``, or the name and text of what it raised."""
    try:
        return action()
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"


def without_plugin() -> dict[str, Any]:
    """Parse numbers and ``auto`` where lf-autoworkers cannot be imported."""
    hide_plugin()
    from llamafactory.hparams import get_train_args
    from llamafactory.v1.config.arg_parser import get_args
    from llamafactory.webui import runner

    def parse(**more: Any) -> list[Any]:
        _, data_args, training_args, *_ = get_train_args(arguments(**more))
        return [data_args.preprocessing_num_workers, training_args.dataloader_num_workers]

    def parse_list(*tokens: str) -> Any:
        pairs = [f"--{key}={value}" for key, value in arguments().items() if not key.endswith("num_workers")]
        return get_train_args([*pairs, *tokens])[2].dataloader_num_workers

    return {
        "numbers": attempt(lambda: parse(preprocessing_num_workers=2, dataloader_num_workers=3)),
        "dict": attempt(lambda: parse(preprocessing_num_workers=" Auto ")),
        "list": attempt(lambda: parse_list("--dataloader_num_workers", "auto")),
        "equals": attempt(lambda: parse_list("--dataloader-num-workers=auto")),
        "list numbers": attempt(lambda: parse_list("--dataloader-num-workers=3")),
        "v1": attempt(lambda: get_args({"model": "m", "batching_workers": "auto"})[2].batching_workers),
        "v1 numbers": attempt(lambda: get_args({"model": "m", "batching_workers": 3})[2].batching_workers),
        "webui": getattr(runner, "PREPROCESSING_NUM_WORKERS", None),
    }


def configs() -> dict[str, Any]:
    """Read a JSON config with an override, as the command line would."""
    from llamafactory.hparams.parser import read_args
    from llamafactory.v1.config.arg_parser import get_args

    config = FOLDER / "config.json"
    config.write_text(json.dumps({"model": "m", "batching_workers": 3, "note": "日本"}, ensure_ascii=False))
    sys.argv = ["llamafactory-cli", str(config), "batching_workers=4"]
    os.environ["ALLOW_EXTRA_KEYS"] = "1"
    return {"v0": attempt(read_args), "v1": attempt(lambda: get_args()[2].batching_workers)}


def fingerprints() -> dict[str, Any]:
    """Fingerprints of the aligned rows and of the tokenizer's map, for several numbers of processes."""
    from datasets.fingerprint import Hasher
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.data.loader import _get_dataset_processor, _get_merged_dataset
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    aligned, tokenized, kept = list[str](), list[str](), list[int | None]()
    for number in (None, 2, 3):
        model_args, data_args, training_args, *_ = get_train_args(arguments(preprocessing_num_workers=number))
        tokenizer = load_tokenizer(model_args)["tokenizer"]
        template = get_template_and_fix_tokenizer(tokenizer, data_args)
        dataset: Any = _get_merged_dataset(data_args.dataset, model_args, data_args, training_args, "sft")
        processor = _get_dataset_processor(data_args, "sft", template, tokenizer, None)
        aligned.append(dataset._fingerprint)
        tokenized.append(Hasher.hash(processor.preprocess_dataset))
        kept.append(data_args.preprocessing_num_workers)
    return {"aligned": aligned, "tokenized": tokenized, "kept": kept}


def streaming() -> dict[str, Any]:
    """Stream the rows on one rank with too few and too many workers, and a dataset tokenized before."""
    from datasets import Dataset, DatasetDict
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    def stream(workers: int, **more: Any) -> dict[str, Any]:
        config = arguments(streaming=True, dataloader_num_workers=workers, **more)
        model_args, data_args, training_args, *_ = get_train_args(config)
        module = load_tokenizer(model_args)
        template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
        dataset: Any = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)[
            "train_dataset"
        ]
        return {
            "rows": len(list(dataset)),
            "shards": dataset.n_shards,
            "workers": training_args.dataloader_num_workers,
        }

    tokenized = FOLDER / "tokenized"
    DatasetDict({"train": Dataset.from_list([{"input_ids": [row]} for row in range(40)])}).save_to_disk(tokenized)
    return {
        "none": attempt(lambda: stream(0)),
        "some": attempt(lambda: stream(4)),
        "more than rows": attempt(lambda: stream(4, dataset="few")),
        "tokenized": attempt(lambda: stream(4, tokenized_path=str(tokenized))),
    }


def shards() -> dict[str, Any]:
    """On each of several ranks: which worker read which rows of the streamed file."""
    import torch
    from accelerate import Accelerator, DataLoaderConfiguration
    from llamafactory.data.loader import _get_merged_dataset
    from llamafactory.hparams import get_train_args
    from torch.utils.data import DataLoader, get_worker_info

    def collate(rows: list[dict[str, Any]]) -> list[tuple[int, str]]:
        worker = get_worker_info()
        assert worker is not None
        return [(worker.id, row["_prompt"][0]["content"]) for row in rows]

    def read(workers: int) -> list[list[Any]]:
        config = arguments(
            streaming=True, dataloader_num_workers=workers, accelerator_config={"dispatch_batches": False}, bf16=False
        )
        model_args, data_args, training_args, *_ = get_train_args(config)
        dataset: Any = _get_merged_dataset(data_args.dataset, model_args, data_args, training_args, "sft")
        # Like the Trainer's: made when the training arguments have joined the ranks, and not before.
        accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=False))
        loader = accelerator.prepare(DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=collate))
        return [list(pair) for batch in loader for pair in batch]

    found = {str(workers): read(workers) for workers in (1, 3)}
    torch.distributed.destroy_process_group()
    return found


def webui() -> dict[str, Any]:
    """Build the web UI, let it write its configs, and parse them as the training process does."""
    import gc

    from llamafactory.hparams.parser import _parse_train_args
    from llamafactory.webui import common
    from llamafactory.webui.engine import Engine
    from llamafactory.webui.interface import create_ui

    create_ui()
    engine = next(thing for thing in gc.get_objects() if type(thing) is Engine)
    values = {element: getattr(element, "value", None) for element in engine.manager.get_elem_list()}
    by_id = {engine.manager.get_id_by_elem(element): element for element in values}
    values[by_id["top.model_path"]] = arguments()["model_name_or_path"]
    values[by_id["top.model_name"]] = "Custom"
    values[by_id["top.template"]] = "qwen"
    for tab in ("train", "eval"):
        values[by_id[f"{tab}.dataset_dir"]] = arguments()["dataset_dir"]
        values[by_id[f"{tab}.dataset"]] = [arguments()["dataset"]]
        values[by_id[f"{tab}.output_dir"]] = f"out-{tab}"
    values[by_id["train.compute_type"]] = "fp32"

    os.chdir(FOLDER)
    report: dict[str, Any] = {}
    for tab, args in (
        ("train", engine.runner._parse_train_args(values)),
        ("eval", engine.runner._parse_eval_args(values)),
    ):
        report[f"{tab} writes"] = args["preprocessing_num_workers"]
        report[f"{tab} previews"] = common.gen_cmd(args).count("--preprocessing_num_workers auto")
        Path(args["output_dir"]).mkdir(parents=True, exist_ok=True)
        sys.argv = ["llamafactory-cli", common.save_cmd(args)]
        report[f"{tab} resolves"] = repr(_parse_train_args()[1].preprocessing_num_workers)
    return report


def train_without_plugin() -> None:
    """``llamafactory-cli train`` on FOLDER/base.json as YAML, in an environment without the plugin."""
    hide_plugin()
    from llamafactory.cli import main

    sys.argv = ["llamafactory-cli", "train", str(FOLDER / "base.yaml")]
    main()


PROBES = {
    "without-plugin": without_plugin,
    "train-without-plugin": train_without_plugin,
    "configs": configs,
    "fingerprints": fingerprints,
    "streaming": streaming,
    "shards": shards,
    "webui": webui,
}

if __name__ == "__main__":
    for what in ASKED:
        answer = FOLDER / f"{what}-{os.environ.get('RANK', '0')}.json"
        answer.write_text(json.dumps(PROBES[what](), default=str))
