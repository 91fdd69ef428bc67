"""What must hold on every release, run by the release's own Python: ``python -m tests.compat.checks FOLDER CHECK ...``.

Covers one function a check, which builds nothing and raises AssertionError with the end of the log where something does
not hold. One JSON object a line tells `__main__` how each went.
"""

from __future__ import annotations

import importlib.metadata
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.lab import WORKER_NAME, Lab, Outcome, build

CPUS = "4"
"""Said for the machine, so that the number logged is not just this machine's."""
NUMBERS: dict[str, Any] = {"dataloader_num_workers": 0, "preprocessing_num_workers": None}
SHOWN = ("llamafactory", "torch", "transformers", "datasets", "accelerate")
KILL_TIMEOUT_S = 480


def doctor(lab: Lab) -> None:
    """`lf-autoworkers doctor` finds the hook active and every seam."""
    import lf_autoworkers

    assert Path(sys.prefix) in Path(lf_autoworkers.__file__).parents, lf_autoworkers.__file__
    outcome = lab.run(["lf-autoworkers", "doctor", "--json"])
    findings: list[dict[str, str]] = json.loads(outcome.text[outcome.text.index("{") :])["findings"]
    assert not [finding for finding in findings if finding["level"] == "fail"], findings
    seams = [finding["where"] for finding in findings if finding["what"] == "seams"]
    assert len(seams) == 1, seams  # one more for each that is missing
    found, _, there = seams[0].removesuffix(" found").partition(" of ")
    assert found == there, seams


def text(lab: Lab) -> None:
    """A YAML with auto twice trains on text; each value is logged once and that many workers live."""
    _assert_trained(lab.train(lab.config("text"), LF_AUTOWORKERS_CPUS=CPUS))


def image(lab: Lab) -> None:
    """The same on images with Qwen2.5-VL."""
    _assert_trained(lab.train(lab.config("image"), LF_AUTOWORKERS_CPUS=CPUS))


def argv(lab: Lab) -> None:
    """The same with every argument on the command line."""
    flags = [word for key, value in lab.values("text").items() for word in (f"--{key}", str(value))]
    _assert_trained(lab.run(["llamafactory-cli", "train", *flags], LF_AUTOWORKERS_CPUS=CPUS))


def resume(lab: Lab) -> None:
    """A run resumed on auto from a checkpoint of LLaMA-Factory's own 0 workers has the undisturbed run's losses."""
    changes: dict[str, Any] = {"max_steps": 5, "save_strategy": "steps", "save_steps": 2}
    stock = lab.train(lab.config("text", **changes, **NUMBERS), LF_AUTOWORKERS_DISABLE="1")
    assert stock.code == 0, stock.text[-3000:]
    changes["resume_from_checkpoint"] = str(lab.scratch / "output" / "checkpoint-2")
    resumed = lab.train(lab.config("text", **changes), LF_AUTOWORKERS_CPUS=CPUS)
    _assert_trained(resumed)
    assert len(stock.losses) == 5, stock.losses
    assert resumed.losses == stock.losses[2:], (resumed.losses, stock.losses)


def ranks(lab: Lab) -> None:
    """Two ranks under torchrun share the node: half the CPUs less one for the trainer, each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    outcome = lab.train(
        lab.config("image"), FORCE_TORCHRUN="1", NPROC_PER_NODE="2", MASTER_PORT=port, LF_AUTOWORKERS_CPUS="8"
    )
    _assert_trained(outcome, ranks=2)
    assert " cpu=3 " in outcome.lines("dataloader_num_workers")[0], outcome.lines("dataloader_num_workers")


def kill(lab: Lab) -> None:
    """A loader worker killed from outside costs no batch: the losses are those of an undisturbed run on 0 workers."""
    steps = {"max_steps": 24}
    undisturbed = lab.train(lab.config("image", **steps, **NUMBERS))
    assert undisturbed.code == 0, undisturbed.text[-3000:]
    killed: list[int] = []
    killer = threading.Thread(target=_kill_one, args=(lab.scratch / "killed", killed))
    killer.start()
    config = lab.config("image", **steps, output_dir=str(lab.scratch / "killed"))
    outcome = lab.train(config, timeout_s=KILL_TIMEOUT_S, LF_AUTOWORKERS_DATALOADER_NUM_WORKERS="2")
    killer.join()
    assert outcome.code == 0, outcome.text[-3000:]
    assert killed, "no worker was seen"
    assert f"(pid {killed[0]}) was killed by SIGKILL" in outcome.text, outcome.text[-3000:]
    assert len(outcome.losses) == 24
    assert outcome.losses == undisturbed.losses


def patched(lab: Lab) -> None:
    """With the patch native-auto, auto works where PyTorch may not call the hook; reverting leaves nothing."""
    for words in (["apply", "native-auto"], ["apply", "native-auto"]):
        applied = lab.run(["lf-autoworkers", "patch", *words])
        assert applied.code == 0, applied.text
    try:
        _assert_trained(
            lab.train(lab.config("text"), LF_AUTOWORKERS_CPUS=CPUS, TORCH_DEVICE_BACKEND_AUTOLOAD="0"),
        )
    finally:
        reverted = lab.run(["lf-autoworkers", "patch", "revert"])
    assert reverted.code == 0, reverted.text
    status = lab.run(["lf-autoworkers", "patch", "status"])
    assert status.code == 0, status.text
    assert "pristine" in status.text, status.text


def v1(lab: Lab) -> None:
    """`USE_V1=1 llamafactory-cli sft` with `batching_workers: auto` trains, and v1's loader says the same count."""
    info = lab.scratch / "v1.yaml"
    rows = lab.folder / "data" / "text.json"
    info.write_text(f"text:\n  path: {rows}\n  source: local\n  converter: alpaca\n")
    config = lab.scratch / "v1-config.yaml"
    values = {
        "model": lab.folder / "text-model",
        "train_dataset": info,
        "template": "qwen3_nothink",
        "micro_batch_size": 2,
        "max_steps": 3,
        "bf16": "false",
        "batching_workers": "auto",
        "output_dir": lab.scratch / "v1-output",
    }
    from llamafactory.v1.config.model_args import ModelArguments

    if "template" not in ModelArguments.__dataclass_fields__:  # main takes the tokenizer's own
        del values["template"]
    config.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
    outcome = lab.run(["llamafactory-cli", "sft", config], USE_V1="1", LF_AUTOWORKERS_CPUS=CPUS)
    assert outcome.code == 0, outcome.text[-3000:]
    assert len(outcome.lines("batching_workers")) == 1, outcome.text[-3000:]
    # Counted by v1's own word: its loader does not name its worker processes as PyTorch's does.
    assert f"batching workers {outcome.decided['batching_workers']}," in outcome.text, outcome.text[-3000:]
    assert "step: 3, loss:" in outcome.text, outcome.text[-3000:]


CHECKS: dict[str, Callable[[Lab], None]] = {
    check.__name__: check for check in (doctor, text, image, argv, resume, ranks, kill, patched, v1)
}


def _assert_trained(outcome: Outcome, ranks: int = 1) -> None:
    assert outcome.code == 0, outcome.text[-3000:]
    for name in ("dataloader_num_workers", "preprocessing_num_workers"):
        assert len(outcome.lines(name)) == 1, outcome.text[-3000:]
    said = outcome.decided["dataloader_num_workers"]
    assert said is not None and said >= 1
    assert list(outcome.most_workers.values()) == [said] * ranks, (outcome.most_workers, said)
    assert outcome.losses, outcome.text[-3000:]


def _kill_one(output: Path, killed: list[int]) -> None:
    """Kill a loader worker of a child of this process once two steps are logged in ``output``."""
    log = output / "trainer_log.jsonl"
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while not killed and time.monotonic() < deadline:
        if log.is_file() and len(log.read_text().splitlines()) >= 2:
            for process in psutil.Process().children(recursive=True):
                try:
                    if Path(f"/proc/{process.pid}/comm").read_text().strip() == WORKER_NAME:
                        process.kill()
                        killed.append(process.pid)
                        break
                except (OSError, psutil.Error):
                    continue
        time.sleep(0.02)


def main(folder: Path, names: Sequence[str]) -> None:
    """Build the lab in ``folder`` and run the checks ``names``, one JSON object a line on stdout."""
    versions = {name: importlib.metadata.version(name) for name in SHOWN}
    print("@@" + json.dumps({"python": sys.version.split()[0], "versions": versions}), flush=True)
    begun = time.monotonic()
    built = folder / "lab"
    try:
        build(built)
    except Exception as error:
        problem: str | None = f"{type(error).__name__}: {error}"
    else:
        problem = None
    _tell("lab", "The tiny models and datasets are built with this release's transformers.", problem, begun)
    for name in names if problem is None else ():
        scratch = folder / f"run-{name}"
        scratch.mkdir()
        begun = time.monotonic()
        problem = None
        try:
            CHECKS[name](Lab(built, scratch))
        except (AssertionError, subprocess.SubprocessError, OSError, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
        _tell(name, CHECKS[name].__doc__ or "", problem, begun)


def _tell(name: str, holds: str, problem: str | None, begun: float) -> None:
    told = {"check": name, "holds": holds, "problem": problem, "seconds": time.monotonic() - begun}
    print("@@" + json.dumps(told), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
