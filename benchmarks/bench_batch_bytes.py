"""What a real worker spends on a batch, beside what `lf_autoworkers.workload` says: bytes, private memory, CPU seconds.

    python -m benchmarks.bench_batch_bytes [--out benchmarks/results/batch_bytes.csv]

Each case is a dataset of equal rows, tokenised and collated by LLaMA-Factory in a forked process with one thread, as
a DataLoader worker does. Private memory is the growth of the peak resident set (VmHWM) over the state before the
batch, less the batch itself; CPU seconds are the process's own, so that neighbours disturb them little. The cases with
sound need torchcodec and FFmpeg's libraries and are left out, with a word, where sound files cannot be decoded.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lf_autoworkers.workload import Workload, describe_workload, find_template_source
from tests import tiny_audio
from tests.tiny_vl import build_model, chat_row, sentence, write_dataset, write_image, write_video

ROWS = 4
TRIALS = 3
BATCHES = 5


@dataclass(frozen=True)
class Case:
    """A dataset of ``ROWS`` equal rows and its run's arguments. ``size``: pixels, or rate and channels of sound."""

    name: str
    kind: str
    size: tuple[int, int]
    per_row: int = 1
    seconds: float = 0.0
    words: int = 20
    arguments: tuple[tuple[str, Any], ...] = ()


CASES = (
    Case("text-200", "text", (0, 0), words=200),
    Case("text-1500", "text", (0, 0), words=1500),
    Case("image-0.3MP", "images", (640, 480)),
    Case("image-2MP", "images", (1920, 1080)),
    Case("image-8MP", "images", (3264, 2448)),
    Case("image-24MP", "images", (6000, 4000)),
    Case("image-2MP-small", "images", (1920, 1080), arguments=(("image_max_pixels", 262144),)),
    Case("image-2MP-large", "images", (1920, 1080), arguments=(("image_max_pixels", 1769472),)),
    Case("image-2MP-bf16", "images", (1920, 1080), arguments=(("bf16", True),)),
    Case("image-2MP-x3", "images", (1920, 1080), per_row=3),
    Case("video-240p-8s", "videos", (426, 240), seconds=8),
    Case("video-480p-8s", "videos", (854, 480), seconds=8),
    Case("video-720p-8s", "videos", (1280, 720), seconds=8),
    Case("video-720p-24s", "videos", (1280, 720), seconds=24),
    Case("video-720p-8s-few", "videos", (1280, 720), seconds=8, arguments=(("video_maxlen", 4),)),
    Case("video-480p-8s-large", "videos", (854, 480), seconds=8, arguments=(("video_max_pixels", 196608),)),
    Case("audio-2s", "audios", (48000, 2), seconds=2),
    Case("audio-20s", "audios", (48000, 2), seconds=20),
)
SUFFIXES = {"images": "jpg", "videos": "mp4", "audios": "wav"}


def build(root: Path, case: Case) -> dict[str, Any]:
    """Write the dataset of ``case`` below ``root`` and return the arguments of its run."""
    import random

    rng, folder = random.Random(1), root / case.name
    folder.mkdir()
    rows = []
    for row in range(ROWS):
        names = [f"{row}-{item}.{SUFFIXES.get(case.kind)}" for item in range(case.per_row)]
        for item, name in enumerate(names):
            if case.kind == "images":
                write_image(folder / name, case.size, seed=row * 10 + item)
            elif case.kind == "videos":
                write_video(folder / name, case.size, case.seconds, seed=row * 10 + item)
            elif case.kind == "audios":
                tiny_audio.write_sound(folder / name, case.seconds, *case.size)
        media = {} if case.kind == "text" else {case.kind: names}
        rows.append(chat_row(sentence(rng, 8), sentence(rng, case.words), **media))
    write_dataset(folder, {"rows": rows})
    sound = case.kind == "audios"
    return {
        "model_name_or_path": str(root / ("audio-model" if sound else "model")),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "dataset": "rows",
        "dataset_dir": str(folder),
        "template": "qwen2_audio" if sound else "qwen2_vl",
        "output_dir": str(root / "out"),
        "cutoff_len": 32768,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "use_cpu": True,
        **dict(case.arguments),
    }


@dataclass(frozen=True)
class Spent:
    """What one batch took in a forked process: bytes of its tensors, private memory beside them, CPU seconds."""

    batch_bytes: int
    beside_bytes: int
    cpu_s: float


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _collate_once(collate: Callable[[Any], Mapping[str, Any]], features: Callable[[], Any], report: Connection) -> None:
    import torch

    from tests.real_batches import batch_bytes

    torch.set_num_threads(1)
    sys.stdout = sys.stderr
    collate(features())  # Imports codecs, and touches the pages that are shared with the parent.
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    bytes_ = batch_bytes(collate(features()))
    beside = _status("VmHWM") - before - bytes_
    seconds = []
    for _ in range(BATCHES):
        start = time.process_time()
        collate(features())
        seconds.append(time.process_time() - start)
    report.send(Spent(bytes_, beside, statistics.median(seconds)))


def measure(arguments: Mapping[str, Any]) -> Spent:
    """Return the median of ``TRIALS`` batches, each made in a process of its own."""
    from tests.real_batches import loader_parts

    dataset, collate = loader_parts(arguments)
    batch_size = arguments["per_device_train_batch_size"]
    context = multiprocessing.get_context("fork")
    trials = []
    for _ in range(TRIALS):
        receive, send = context.Pipe(duplex=False)
        features = lambda: [dataset[i] for i in range(batch_size)]  # noqa: E731
        child = context.Process(target=_collate_once, args=(collate, features, send))
        child.start()
        send.close()
        trials.append(receive.recv())
        child.join()
    return Spent(
        max(trial.batch_bytes for trial in trials),
        max(trial.beside_bytes for trial in trials),
        statistics.median(trial.cpu_s for trial in trials),
    )


def _decodes_sound(path: Path) -> bool:
    import torchaudio

    tiny_audio.write_sound(path, 0.1, 8000, 1)
    try:
        torchaudio.load(str(path))
    except (ImportError, RuntimeError, OSError) as error:
        print(f"no sound: {str(error).splitlines()[0]}", file=sys.stderr)
        return False
    return True


def results(root: Path, only: str) -> Iterator[tuple[Case, Spent, Workload]]:
    build_model(root / "model")
    tiny_audio.build_model(root / "audio-model")
    hears = _decodes_sound(root / "probe.wav")
    for case in CASES:
        if only in case.name and (hears or case.kind != "audios"):
            arguments = build(root, case)
            spent = measure(arguments)
            yield case, spent, describe_workload(arguments, template_source=find_template_source())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    os.environ.setdefault("LLAMAFACTORY_VERBOSITY", "ERROR")
    os.environ.setdefault("DISABLE_VERSION_CHECK", "1")
    header = ["case"] + [
        f"{fact}_{side}" for fact in ("batch_mib", "beside_mib", "cpu_ms") for side in ("real", "said")
    ]
    table: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_HOME"] = str(Path(folder) / "hf")
        for case, spent, said in results(Path(folder), options.only):
            figures = (
                *(spent.batch_bytes / 2**20, said.batch_bytes / 2**20),
                *(spent.beside_bytes / 2**20, said.decode_bytes / 2**20),
                *(spent.cpu_s * 1e3, said.batch_cpu_s * 1e3),
            )
            table.append([case.name, *(f"{figure:.2f}" for figure in figures)])
            print(*table[-1], sep=",", file=sys.stderr, flush=True)
    with options.out.open("w", newline="", encoding="utf-8") if options.out else sys.stdout as out:
        csv.writer(out).writerows([header, *table])


if __name__ == "__main__":
    main()
