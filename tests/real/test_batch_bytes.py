"""The estimate of a batch's bytes against batches that the real LLaMA-Factory collates.

Covers Qwen2.5-VL images and videos, text under its template, packing, and the preference stages, while batch size,
image_max_pixels, video_maxlen and images per row each vary threefold: the largest batch of a run of three epochs is met
within 15%, and never missed by more than 10%. Sizes and lengths differ from row to row, as in real data. Audio is in
`test_audio`.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lf_autoworkers.workload import describe_workload, find_template_source
from lf_autoworkers.workload.processor import snapped
from tests.tiny_vl import build_model, chat_row, preference_row, sentence, write_dataset, write_image, write_video

pytestmark = [
    pytest.mark.real,
    # Deprecations within transformers, datasets and PyAV are theirs to mend.
    pytest.mark.filterwarnings("default"),
]

EPOCHS = 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and datasets of one to three images a row, of videos, and of text."""
    folder = tmp_path_factory.mktemp("workload")
    build_model(folder / "model")
    media, rng = folder / "data", random.Random(3)
    for i in range(12):
        write_image(media / f"{i}.jpg", rng.choice([(320, 240), (640, 480), (800, 600), (480, 640)]), seed=i)
    for i in range(8):
        write_video(media / f"{i}.mp4", [(160, 120), (240, 180)][i % 2], rng.choice([3, 5, 6]), fps=12, seed=i)

    def row(**files: list[str]) -> dict[str, Any]:
        return chat_row(sentence(rng, 8), sentence(rng, rng.randint(10, 60)), **files)

    def images(count: int) -> list[str]:
        return [f"{rng.randrange(12)}.jpg" for _ in range(count)]

    def answers() -> tuple[str, str]:
        return sentence(rng, rng.randint(10, 60)), sentence(rng, 20)

    write_dataset(
        media,
        {
            **{f"images{n}": [row(images=images(n)) for _ in range(12)] for n in (1, 2, 3)},
            "videos": [row(videos=[f"{i}.mp4"]) for i in range(8)],
            "text": [row() for _ in range(12)],
            "preferences": [preference_row(sentence(rng, 8), answers(), images=images(1)) for _ in range(8)],
            "judged": [{**row(images=images(1)), "kto_tag": i % 2 == 0} for i in range(8)],
        },
    )
    return folder


@pytest.fixture(autouse=True)
def _own_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(root / "cache"))
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")


def arguments(root: Path, dataset: str, **changed: Any) -> dict[str, Any]:
    return {
        "model_name_or_path": str(root / "model"),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "dataset": dataset,
        "dataset_dir": str(root / "data"),
        "template": "qwen2_vl",
        "cutoff_len": 8192,
        "output_dir": str(root / "out"),
        "per_device_train_batch_size": 2,
        "num_train_epochs": EPOCHS,
        "image_max_pixels": 160_000,
        "video_maxlen": 6,
        "report_to": "none",
        "use_cpu": True,
        **changed,
    }


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "two rows, one image each": ("images1", {}),
    "four rows": ("images1", {"per_device_train_batch_size": 4}),
    "six rows": ("images1", {"per_device_train_batch_size": 6}),
    "few pixels": ("images1", {"image_max_pixels": 80_000}),
    "most pixels": ("images1", {"image_max_pixels": 240_000}),
    "two images a row": ("images2", {}),
    "three images a row": ("images3", {}),
    "four frames": ("videos", {"video_maxlen": 4}),
    "eight frames": ("videos", {"video_maxlen": 8}),
    "twelve frames": ("videos", {"video_maxlen": 12}),
    "half precision": ("videos", {"bf16": True}),
    "text under a vision template carries a blank image": ("text", {}),
    "neat packing carries a square mask": (
        "text",
        {"neat_packing": True, "cutoff_len": 512, "per_device_train_batch_size": 1, "bf16": True},
    ),
    "a preference row counts twice": ("preferences", {"stage": "dpo", "pref_loss": "orpo"}),
    "kto keeps the second pass's tokens": ("judged", {"stage": "kto"}),
}


@pytest.mark.parametrize("case", CASES)
def test_estimate_meets_the_largest_real_batch(root: Path, case: str) -> None:
    from tests.real_batches import batch_bytes, batches_of_run

    dataset, changed = CASES[case]
    run = arguments(root, dataset, **changed)
    said = describe_workload(run, template_source=find_template_source())
    largest, tensors = 0, 0
    for batch in batches_of_run(run, EPOCHS):
        largest = max(largest, batch_bytes(batch))
        tensors = max(tensors, sum(hasattr(value, "element_size") for value in batch.values()))
    assert 0.9 * largest <= said.batch_bytes <= 1.15 * largest
    assert tensors <= said.files_per_batch <= tensors + 1


SIDES = st.integers(28, 4000)


@settings(deadline=None)  # The first example imports transformers.
@given(SIDES, SIDES)
def test_snapping_is_transformers_smart_resize(width: int, height: int) -> None:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    high, wide = smart_resize(height, width, 28, 3136, 1003520)
    assert snapped(width, height, 28, 3136, 1003520) == (max(28, wide), max(28, high))


@settings(deadline=None)
@given(SIDES, SIDES, st.integers(1, 64).map(lambda pairs: pairs * 2))
def test_snapping_of_many_frames_is_qwen3s_video_rule(width: int, height: int, frames: int) -> None:
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

    width, height = width + 4, height + 4  # It refuses sides below 32.
    high, wide = smart_resize(frames, height, width, 2, 32, 131072, 786432)
    assert snapped(width, height, 32, 131072, 786432, frames) == (wide, high)
