#!/usr/bin/env python3
"""How fast LLaMA-Factory's own data path is with each worker count, and with what auto picks.

    python benchmarks/bench_workers.py loader [--kind image|video|text] [--step 0.15] [--runs 5] [--csv FILE]
    python benchmarks/bench_workers.py preprocessing [--kind image|text] [--runs 3] [--csv FILE]

`loader` feeds a training step that is emulated by sleeping ``--step`` seconds a batch (a real step would take CPU time
on a machine without a GPU) from a DataLoader over LLaMA-Factory's real dataset, template and collator. `preprocessing`
times LLaMA-Factory's real tokenising with 1, 2 and 4 processes, each with the intra-op threads it inherits and with one
(what auto does). All counts take turns within each round, so that a machine that changes its speed changes it for all.
Prints seconds, and the ratio to the best count of the same round (median over rounds).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.lab import BIN


def build(folder: Path, rows: int) -> None:
    """Write a vision and a text model and three datasets of photograph-sized media."""
    from lf_autoworkers.demo import (
        SHAREGPT_TAGS,
        build_text_model,
        build_vision_model,
        conversation,
        words,
        write_image_dataset,
    )
    from tests.lab import write_clip

    build_text_model(folder / "text-model")
    build_vision_model(folder / "vision-model")
    data = folder / "data"
    data.mkdir()
    rng = random.Random(5)
    texts = [{"instruction": words(rng, 5, 30), "input": "", "output": words(rng, 20, 200)} for _ in range(5 * rows)]
    (data / "text.json").write_text(json.dumps(texts))
    clips = []
    for row in range(24):
        write_clip(data / f"clips/{row}.mp4", seconds=rng.randint(4, 10), seed=row, width=480, height=360, rate=24)
        clips.append(conversation("<video>" + words(rng, 4, 9), words(rng, 8, 30), videos=[f"clips/{row}.mp4"]))
    (data / "video.json").write_text(json.dumps(clips * (rows // 24)))
    videos = {"messages": "messages", "videos": "videos"}
    info = {
        "text": {"file_name": "text.json"},
        "image": write_image_dataset(data, rows, ((1280, 960), (1600, 1200), (1024, 1536), (1920, 1080))),
        "video": {"file_name": "video.json", "formatting": "sharegpt", "columns": videos, "tags": SHAREGPT_TAGS},
    }
    (data / "dataset_info.json").write_text(json.dumps(info))


def values(folder: Path, kind: str) -> dict[str, Any]:
    """Return a config for one of the datasets."""
    vision = kind != "text"
    return {
        "model_name_or_path": str(folder / ("vision-model" if vision else "text-model")),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "dataset": kind,
        "dataset_dir": str(folder / "data"),
        "media_dir": str(folder / "data"),
        "template": "qwen2_vl" if vision else "qwen",
        "cutoff_len": 4096,
        "output_dir": str(folder / "output"),
        "report_to": "none",
        "per_device_train_batch_size": 2,
    }


def load_once(config: dict[str, Any], workers: int | str, step_s: float, batches: int) -> float:
    """Return the seconds from the first request to the last batch, the emulated steps included."""
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer
    from torch.utils.data import DataLoader

    model, data, training, _, _ = get_train_args({**config, "dataloader_num_workers": workers})
    loaded = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data)
    dataset = get_dataset(template, model, data, training, stage="sft", **loaded)["train_dataset"]
    collate = SFTDataCollatorWith4DAttentionMask(
        template=template, pad_to_multiple_of=8, label_pad_token_id=-100, **loaded
    )
    loader = DataLoader(dataset, 2, collate_fn=collate, num_workers=training.dataloader_num_workers)
    begin = time.perf_counter()
    for number, _batch in enumerate(loader, 1):
        time.sleep(step_s)
        if number == batches:
            break
    return time.perf_counter() - begin


def preprocess_once(config: dict[str, Any], processes: int, folder: Path) -> float:
    """Return the seconds LLaMA-Factory's loading and tokenising take, imports aside."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    values = {**config, "overwrite_cache": True, "preprocessing_num_workers": processes}
    model, data, training, _, _ = get_train_args(values)
    loaded = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data)
    begin = time.perf_counter()
    get_dataset(template, model, data, training, stage="sft", **loaded)
    return time.perf_counter() - begin


def child(folder: Path, what: str, kind: str, choice: str, step_s: float, batches: int) -> float:
    """Run one measurement in a fresh interpreter and return its seconds."""
    environ = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    environ["HF_HOME"] = str(folder / "hf")
    words = [sys.executable, __file__, "--child", str(folder), what, kind, choice, str(step_s), str(batches)]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=True)
    return float(done.stdout.rpartition("@@")[2])


def run_child(words: list[str]) -> None:
    """Measure once; this is the fresh interpreter."""
    folder, what, kind, choice, step_s, batches = words
    config = values(Path(folder), kind)
    if what == "loader":
        took = load_once(config, choice if choice == "auto" else int(choice), float(step_s), int(batches))
    else:
        processes, _, threads = choice.partition(" ")
        if threads:
            from lf_autoworkers.adapter.mapping import prepare_children

            prepare_children(())
        took = preprocess_once(config, int(processes), Path(folder))
    print(f"@@{took}")


def main() -> None:
    """Build, take turns, print."""
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["loader", "preprocessing"])
    parser.add_argument("--kind", choices=["image", "video", "text"], default="image")
    parser.add_argument("--step", type=float, default=0.15, help="seconds an emulated training step takes")
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--choices", help="worker counts, comma-separated (default: 0, 1, the CPUs, twice them, 8, auto)"
    )
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    cpus = len(os.sched_getaffinity(0))
    default = "0,1," + ",".join(str(n) for n in dict.fromkeys((cpus, 2 * cpus, 8))) + ",auto"
    if options.what == "preprocessing":
        default = "1,2,4,2 one-thread,4 one-thread"
    choices = (options.choices or default).split(",")
    rows: list[list[float]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        build(folder, options.rows)
        for number in range(-1, options.runs):  # the first round tokenises and warms caches; it is not counted
            took = [child(folder, options.what, options.kind, c, options.step, options.batches) for c in choices]
            if number >= 0:
                rows.append(took)
            print(
                f"round {number}: " + "  ".join(f"{c}: {t:.2f}" for c, t in zip(choices, took, strict=True)), flush=True
            )
    print(f"{platform.machine()}, {cpus} CPUs, Python {platform.python_version()}, {options.what} of {options.kind}")
    for index, choice in enumerate(choices):
        seconds = [row[index] for row in rows]
        ratio = statistics.median(row[index] / min(row) for row in rows)
        print(f"{choice:<14} median {statistics.median(seconds):7.2f} s   {ratio:5.2f} x the best of its round")
    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file).writerows([choices, *rows])


if __name__ == "__main__":
    main()
