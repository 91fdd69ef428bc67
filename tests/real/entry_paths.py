"""Parses arguments in every way LLaMA-Factory takes them, in one process; prints what came out as JSON.

Run by `test_entry_paths` as a script: importing LLaMA-Factory once serves every case.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llamafactory.hparams import get_infer_args, get_ray_args, get_train_args, read_args
from llamafactory.webui.common import save_cmd
from transformers import HfArgumentParser, TrainingArguments

from lf_autoworkers.errors import AutoWorkersError


def counts(parsed: Any) -> dict[str, Any]:
    """Return the worker counts of parsed training arguments."""
    data, training = parsed[1], parsed[2]
    return {
        "preprocessing": data.preprocessing_num_workers,
        "dataloader": training.dataloader_num_workers,
        "prefetch": training.dataloader_prefetch_factor,
        "persistent": training.dataloader_persistent_workers,
    }


def attempt(act: Callable[[], Any]) -> Any:
    """Return what ``act`` returns, or the exception it raises as text."""
    try:
        return act()
    except AutoWorkersError as error:
        return {"ours": f"{type(error).__name__}: {error}"}
    except BaseException as error:
        return {"theirs": f"{type(error).__name__}: {error}"}


def as_argv(*words: str) -> Any:
    """Parse as ``llamafactory-cli train`` does for ``words``: both of its parses."""
    sys.argv = ["launcher.py", *words]
    arguments = read_args()
    get_ray_args(arguments)
    return counts(get_train_args(arguments))


def v1(arguments: Any) -> int:
    """Parse with v1's parser and return its loader count."""
    from llamafactory.v1.config.arg_parser import get_args

    return int(get_args(arguments)[2].batching_workers)


def several_runs(auto: dict[str, Any], plain: dict[str, Any]) -> list[list[bool]]:
    """Return, after each of several runs in one process, what is armed: anything, shards, the fingerprint."""
    from lf_autoworkers.adapter import mapping, run, streaming

    numbers = {**plain, "dataloader_num_workers": 2, "preprocessing_num_workers": 2}
    states = []
    for arguments in (auto, {**auto, "streaming": True, "max_steps": 2}, auto, numbers, auto):
        get_train_args(arguments)
        states.append([run.is_armed(), streaming._workers is not None, mapping._fingerprint])
    get_infer_args({"model_name_or_path": "x", "template": "qwen", "preprocessing_num_workers": "auto"})
    states.append([run.is_armed(), streaming._workers is not None, mapping._fingerprint])
    return states


def main(base_file: str) -> dict[str, Any]:
    """Run every case on the config in ``base_file``."""
    base: dict[str, Any] = json.loads(Path(base_file).read_text())
    plain = {key: value for key, value in base.items() if not key.endswith("num_workers")}
    flags = [word for key, value in plain.items() for word in (f"--{key}", str(value))]
    yaml = Path(base_file).with_suffix(".yaml")
    both = {"dataloader_num_workers": "auto", "preprocessing_num_workers": "auto"}

    def train(**changes: Any) -> Callable[[], Any]:
        return lambda: counts(get_train_args({**plain, **changes}))

    cases: dict[str, Callable[[], Any]] = {
        "yaml": lambda: as_argv(str(yaml)),
        "yaml and key=auto": lambda: as_argv(str(yaml), "dataloader_num_workers=AUTO", "preprocessing_num_workers=2"),
        "flags": lambda: as_argv(*flags, "--dataloader_num_workers", "auto", "--preprocessing_num_workers", "auto"),
        "flags with equals": lambda: as_argv(
            *flags, "--dataloader_num_workers=auto", "--preprocessing_num_workers=Auto"
        ),
        "dashed flags": lambda: as_argv(*flags, "--dataloader-num-workers", "auto", "--preprocessing-num-workers=auto"),
        "abbreviated flag": lambda: as_argv(*flags, "--dataloader_num_work", "auto"),
        "dict": train(**both),
        "odd case and blanks": train(dataloader_num_workers=" Auto ", preprocessing_num_workers="AUTO"),
        "numbers": train(dataloader_num_workers=3, preprocessing_num_workers=2),
        "number beside auto": train(dataloader_num_workers=3, preprocessing_num_workers="auto"),
        "typo": train(dataloader_num_workers="atuo"),
        "typo in flags": lambda: as_argv(*flags, "--preprocessing_num_workers", "atuo"),
        "streaming": train(**both, streaming=True, max_steps=2),
        "ppo": train(**both, stage="ppo", reward_model="x", reward_model_type="full", dataloader_prefetch_factor=4),
        "own prefetch": train(**both, dataloader_prefetch_factor=3, dataloader_persistent_workers=True),
        "web ui": lambda: as_argv(save_cmd({**plain, **both})),  # its Extra arguments end in this file
        "export": lambda: (
            get_infer_args(
                {"model_name_or_path": "x", "template": "qwen", "export_dir": "y", "preprocessing_num_workers": "auto"}
            )[1].preprocessing_num_workers
        ),
        "v1 dict": lambda: v1({"model": "x", "batching_workers": "auto"}),
        "v1 flags": lambda: v1(["--model", "x", "--batching_workers=auto"]),
        "v1 number": lambda: v1({"model": "x", "batching_workers": 5}),
    }
    found = {name: attempt(case) for name, case in cases.items()}

    mine = {**plain, **both}
    before = dict(mine)
    get_train_args(mine)
    found["caller's dict unchanged"] = mine == before
    get_train_args({**plain, **both})  # the same arguments again: decided and logged once

    found["one process, several runs"] = several_runs({**plain, **both}, plain)

    other = HfArgumentParser(TrainingArguments)
    given = {"output_dir": "x", "dataloader_num_workers": "auto"}
    found["another parser's auto"] = other.parse_dict(given)[0].dataloader_num_workers
    seen: list[Any] = []
    from lf_autoworkers.adapter import arguments as hook

    numbers = {**plain, "dataloader_num_workers": 3}
    parser = HfArgumentParser([type(part) for part in get_train_args(numbers)])
    seen.append(hook.rewrite(parser, numbers) is numbers)
    tokens = ["--dataloader_num_workers", "3"]
    seen.append(hook.rewrite(parser, tokens) is tokens)
    found["same objects without auto"] = seen
    return found


if __name__ == "__main__":
    print("@@" + json.dumps(main(sys.argv[1]), default=str))
