"""File audio on the real LLaMA-Factory: the estimate against collated batches, and a training with auto.

The pinned torchaudio decodes files only with torchcodec (0.11 for torch 2.11) and FFmpeg's libraries (``apt install
ffmpeg``), which are not in the extras; without them this is skipped.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from lf_autoworkers.workload import describe_workload, find_template_source
from tests.lab import Lab
from tests.tiny_audio import build_model, write_sound
from tests.tiny_vl import chat_row, sentence, write_dataset

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("default")]

ROWS = 16


@pytest.fixture(scope="module", autouse=True)
def _decoder(tmp_path_factory: pytest.TempPathFactory) -> None:
    import torchaudio

    path = tmp_path_factory.mktemp("decoder") / "a.wav"
    write_sound(path, 0.1, 8000, 1)
    try:
        torchaudio.load(str(path))
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"audio files cannot be decoded here: {str(error).splitlines()[0]}")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio-model")
    build_model(folder)
    return folder


@pytest.fixture
def values(lab: Lab, model: Path) -> dict[str, Any]:
    """A config over clips of different lengths, rates and channels."""
    rng, data = random.Random(3), lab.scratch / "sound"
    data.mkdir()
    rows = []
    for row in range(ROWS):
        write_sound(data / f"{row}.wav", rng.choice([1.0, 4.5, 12.0]), rng.choice([16000, 48000]), rng.choice([1, 2]))
        rows.append(chat_row(sentence(rng, 8), sentence(rng, rng.randint(10, 40)), audios=[f"{row}.wav"]))
    write_dataset(data, {"sound": rows})
    place = {"dataset_dir": str(data), "media_dir": str(data), "model_name_or_path": str(model)}
    return lab.values("sound", **place, template="qwen2_audio")


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_estimate_meets_the_largest_real_batch(values: dict[str, Any], batch_size: int) -> None:
    from tests.real_batches import batch_bytes, batches_of_run

    run = {**values, "per_device_train_batch_size": batch_size, "use_cpu": True}
    run |= {"dataloader_num_workers": 0, "preprocessing_num_workers": 1}
    said = describe_workload(run, template_source=find_template_source())
    largest = max(batch_bytes(batch) for batch in batches_of_run(run, 3))
    assert 0.9 * largest <= said.batch_bytes <= 1.15 * largest


def test_a_training_on_audio_files(lab: Lab, values: dict[str, Any]) -> None:
    from lf_autoworkers.demo import write_config

    write_config(lab.scratch / "config.yaml", values)
    outcome = lab.train(lab.scratch / "config.yaml", LF_AUTOWORKERS_CPUS="4")
    assert outcome.code == 0, outcome.text[-3000:]
    assert len(outcome.losses) == 4
    assert " audio" in outcome.lines("dataloader_num_workers")[0]
    assert list(outcome.most_workers.values()) == [outcome.decided["dataloader_num_workers"]]
