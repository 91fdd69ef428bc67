"""Tiny models, datasets and configs for tests that start the real LLaMA-Factory, and the starting itself.

``python -m tests.lab FOLDER`` builds everything once; `Lab` then writes configs and runs commands. Nothing is
downloaded.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

BIN = Path(sys.executable).parent
LINE = re.compile(r"(\w+): auto -> (\d+|none) per (rank|node) <- (.*)")
WORKER_NAME = "pt_data_worker"
"""What PyTorch calls the main thread of a loader worker (``/proc/PID/comm``)."""


def build(folder: Path) -> None:
    """Write models, datasets and ``dataset_info.json`` below ``folder``."""
    from lf_autoworkers.demo import (
        SHAREGPT_TAGS,
        build_text_model,
        build_vision_model,
        conversation,
        words,
        write_image_dataset,
    )

    data = folder / "data"
    data.mkdir(parents=True)
    build_text_model(folder / "text-model")
    build_vision_model(folder / "vision-model")
    rng = random.Random(3)
    texts = [{"instruction": words(rng, 5, 20), "input": "", "output": words(rng, 10, 60)} for _ in range(240)]
    pairs = [
        {"instruction": words(rng, 5, 20), "input": "", "chosen": words(rng, 5, 20), "rejected": words(rng, 5, 20)}
        for _ in range(64)
    ]
    info: dict[str, Any] = {"text": {"file_name": "text.json"}, "few": {"file_name": "few.json"}}
    (data / "text.json").write_text(json.dumps(texts))
    (data / "few.json").write_text(json.dumps(texts[:3]))
    (data / "pairs.json").write_text(json.dumps(pairs))
    info["pairs"] = {
        "file_name": "pairs.json",
        "ranking": True,
        "columns": {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"},
    }
    info["image"] = write_image_dataset(data, 48, ((640, 480), (800, 600)))
    rows = []
    for row in range(8):
        name = f"clips/{row}.mp4"
        write_clip(data / name, seconds=2, seed=row)
        rows.append(conversation("<video>" + words(rng, 4, 8), words(rng, 6, 20), videos=[name]))
    (data / "video.json").write_text(json.dumps(rows))
    columns = {"messages": "messages", "videos": "videos"}
    info["video"] = {"file_name": "video.json", "formatting": "sharegpt", "columns": columns, "tags": SHAREGPT_TAGS}
    (data / "dataset_info.json").write_text(json.dumps(info, indent=1))


def write_clip(path: Path, seconds: int, seed: int, width: int = 320, height: int = 240, rate: int = 12) -> None:
    """Write an MPEG-4 clip of moving noise."""
    import av
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    base = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in range(seconds * rate):
            picture = av.VideoFrame.from_ndarray(np.roll(base, 4 * frame, axis=1), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


@dataclass
class Outcome:
    """What a finished command left behind.

    Attributes:
        code: Exit code.
        text: Standard output and error together.
        most_workers: The most loader workers alive at once, by the pid of the process that owns them.
    """

    code: int
    text: str
    most_workers: dict[int, int] = field(default_factory=dict)

    @property
    def decided(self) -> dict[str, int | None]:
        """Every value the log says ``auto`` became."""
        return {m[1]: None if m[2] == "none" else int(m[2]) for m in LINE.finditer(self.text)}

    def lines(self, name: str) -> list[str]:
        """Return the log lines about the argument ``name``."""
        return [m[0] for m in LINE.finditer(self.text) if m[1] == name]

    @property
    def losses(self) -> list[str]:
        """The losses the trainer logged, to the last digit."""
        return re.findall(r"'loss': '?([0-9.]+)", self.text)


class Lab:
    """A built folder, and a place to run in."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self.scratch = scratch

    def values(self, dataset: str, **changes: Any) -> dict[str, Any]:
        """Return an SFT config for ``dataset`` with both counts ``auto``; ``None`` takes a key out."""
        vision = any(kind in dataset for kind in ("image", "video"))
        values = {
            "model_name_or_path": str(self.folder / ("vision-model" if vision else "text-model")),
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "full",
            "dataset": dataset,
            "dataset_dir": str(self.folder / "data"),
            "media_dir": str(self.folder / "data"),
            "template": "qwen2_vl" if vision else "qwen",
            "cutoff_len": 2048,
            "image_max_pixels": 65536,
            "output_dir": str(self.scratch / "output"),
            "overwrite_output_dir": True,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "max_steps": 4,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "preprocessing_num_workers": "auto",
            "dataloader_num_workers": "auto",
            **changes,
        }
        return {key: value for key, value in values.items() if value is not None}

    def config(self, dataset: str, **changes: Any) -> Path:
        """Write that config and return its path."""
        from lf_autoworkers.demo import write_config

        path = self.scratch / f"config-{len(list(self.scratch.glob('config-*')))}.yaml"
        write_config(path, self.values(dataset, **changes))
        return path

    def environ(self, **changes: str | None) -> dict[str, str]:
        """Return an environment of a clean machine: this interpreter's scripts first, caches in the scratch folder."""
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("LF_AUTOWORKERS_", "COVERAGE")) and name not in ("PYTHONPATH", "RANK", "LOCAL_RANK")
        }
        environ |= {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "HF_HOME": str(self.scratch / "hf"),
            "HF_HUB_OFFLINE": "1",
            "XDG_STATE_HOME": str(self.scratch / "state"),
            "LF_AUTOWORKERS_STRICT": "1",
        }
        environ |= {name: value for name, value in changes.items() if value is not None}
        return {name: value for name, value in environ.items() if changes.get(name, "") is not None}

    def run(self, command: Sequence[str | Path], timeout_s: float = 240, **environ: str | None) -> Outcome:
        """Run ``command`` to its end, watching its loader workers; kills it and fails when it takes too long."""
        words = [str(word) for word in command]
        process = subprocess.Popen(
            words,
            env=self.environ(**environ),
            cwd=self.scratch,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        outcome = Outcome(-1, "")
        watcher = threading.Thread(target=_watch_workers, args=(process, outcome.most_workers))
        watcher.start()
        try:
            outcome.text, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            outcome.text, _ = process.communicate()
            raise AssertionError(f"{words} took over {timeout_s} s:\n{outcome.text[-3000:]}") from None
        finally:
            watcher.join()
        outcome.code = process.returncode
        return outcome

    def train(self, config: Path, *overrides: str, timeout_s: float = 240, **environ: str | None) -> Outcome:
        """Run the unchanged ``llamafactory-cli train`` on ``config``."""
        return self.run(["llamafactory-cli", "train", config, *overrides], timeout_s, **environ)


def _watch_workers(process: subprocess.Popen[str], most: dict[int, int]) -> None:
    root = psutil.Process(process.pid)
    while process.poll() is None:
        alive: dict[int, int] = {}
        try:
            for child in root.children(recursive=True):
                if Path(f"/proc/{child.pid}/comm").read_text().strip() == WORKER_NAME:
                    alive[child.ppid()] = alive.get(child.ppid(), 0) + 1
        except (psutil.Error, OSError):
            continue
        for owner, count in alive.items():
            most[owner] = max(most.get(owner, 0), count)
        time.sleep(0.02)


def environment_of(pid: int) -> Mapping[str, str]:
    """Return the environment the process ``pid`` was started with."""
    return psutil.Process(pid).environ()


if __name__ == "__main__":
    build(Path(sys.argv[1]))
