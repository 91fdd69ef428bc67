"""Trains once for each seam that is taken away, as another release of some package would; run by `test_missing_seams`.

    python -m tests.compat.missing_seams values.json FOLDER

LLaMA-Factory is imported once. Each case is a fork of that process which breaks one seam and trains; its log and exit
code lie in FOLDER. Seams that LLaMA-Factory itself calls cannot be taken away: the run would end without us too.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets.utils._dill
import llamafactory.hparams.data_args
import torch.utils.data.dataloader
import torchdata.stateful_dataloader  # noqa: F401  (the host imports it late, and needs what is taken away below)
import transformers.trainer
from llamafactory.train.tuner import run_exp

from lf_autoworkers import _activate


def drop(owner: Any, name: str) -> Callable[[], None]:
    """Return what deletes ``owner.name``."""
    return lambda: delattr(owner, name)


def rename_get_iterator() -> None:
    """Let PyTorch's loader call its iterator's maker by another name."""
    loader: Any = torch.utils.data.DataLoader
    make = loader._get_iterator
    del loader._get_iterator
    loader.__iter__ = lambda self: make(self)


def refuse_the_saver() -> None:
    """Let the Trainer refuse the callback that stores the count with checkpoints."""
    add = transformers.trainer.Trainer.add_callback

    def add_callback(self: Any, callback: Any) -> None:
        if type(callback).__name__ == "SaveWorkerCount":
            raise TypeError("not a callback")
        add(self, callback)

    transformers.trainer.Trainer.add_callback = add_callback


CASES: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "Trainer.get_test_dataloader": drop(transformers.trainer.Trainer, "get_test_dataloader"),
    "DataLoader._get_iterator": rename_get_iterator,
    "MapDataPipe": drop(torch.utils.data, "MapDataPipe"),
    "_BaseDataLoaderIter": drop(torch.utils.data.dataloader, "_BaseDataLoaderIter"),
    "TrainerCallback": drop(transformers.trainer, "TrainerCallback"),
    "pklregister": drop(datasets.utils._dill, "pklregister"),
    "DataArguments": drop(llamafactory.hparams.data_args, "DataArguments"),
    "Trainer.add_callback": refuse_the_saver,
}


def train(case: str, values: dict[str, Any], folder: Path) -> None:
    """Break what ``case`` says and train; the log goes to a file, and the code it ends with too. Does not return."""
    code = 1
    log = os.open(folder / f"{case}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        CASES[case]()
        run_exp({**values, "output_dir": str(folder / case), "streaming": case == "Trainer.add_callback"})
        if _activate.failure is None:
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(values: dict[str, Any], folder: Path) -> None:
    """Run every case, one after another."""
    for case in CASES:
        child = os.fork()
        if child == 0:
            train(case, values, folder)
        _, status = os.waitpid(child, 0)
        (folder / f"{case}.code").write_text(str(os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
