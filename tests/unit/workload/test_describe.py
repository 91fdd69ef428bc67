"""The whole description of a run: modality, rows, what is assumed where nothing can be read, and speed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lf_autoworkers.workload import Modality, Workload, describe_workload

pytest.importorskip("PIL")

TEMPLATES = """
register_template(name="plain")
register_template(name="sees", mm_plugin=get_mm_plugin(name="qwen2_vl", image_token="<i>", video_token="<v>"))
register_template(name="pictures", mm_plugin=get_mm_plugin(name="llava", image_token="<i>"))
register_template(name="hears", mm_plugin=get_mm_plugin(name="qwen2_audio", audio_token="<a>"))
"""


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    source = tmp_path / "template.py"
    source.write_text(TEMPLATES)
    return source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with datasets: text (20 rows), image (10), empty_column (3), hub_video, and pictures of 640 x 480."""
    from PIL import Image

    data = tmp_path / "data"
    data.mkdir()
    Image.new("RGB", (640, 480)).save(data / "a.png")
    (data / "text.json").write_text(json.dumps([{"instruction": "hello " * 20}] * 20))
    (data / "image.json").write_text(json.dumps([{"m": "hi", "images": ["a.png"]}] * 10))
    (data / "empty.json").write_text(json.dumps([{"m": "hi", "images": []}] * 3))
    images = {"columns": {"images": "images"}}
    table = {
        "text": {"file_name": "text.json"},
        "image": {"file_name": "image.json", **images},
        "empty_column": {"file_name": "empty.json", **images},
        "hub_video": {"hf_hub_url": "someone/clips", "columns": {"videos": "videos"}},
        "lost_image": {"file_name": "lost.json", **images},
    }
    (data / "dataset_info.json").write_text(json.dumps(table))
    return data


def describe(folder: Path | Any, templates: Path | None, **config: Any) -> Workload:
    where = str(folder) if isinstance(folder, Path) else folder
    return describe_workload({"dataset_dir": where, "template": "sees", **config}, template_source=templates)


@pytest.mark.parametrize(
    ("config", "modality", "source"),
    [
        ({"dataset": "text"}, Modality.TEXT, "no dataset has a column"),
        ({"dataset": "image"}, Modality.IMAGE, "dataset image, column images"),
        ({"dataset": "text,image"}, Modality.IMAGE, "dataset image, column images"),
        ({"dataset": ["text", "hub_video", "image"]}, Modality.VIDEO, "dataset hub_video, column videos"),
        ({"dataset": "text", "eval_dataset": "image"}, Modality.IMAGE, "dataset image, column images"),
        ({"dataset": "empty_column"}, Modality.TEXT, "no dataset has a column"),
        ({"dataset": "lost_image"}, Modality.IMAGE, "dataset lost_image, column images"),
        ({"dataset": "unheard_of"}, Modality.VIDEO, "columns of dataset unheard_of are unknown; template sees"),
        ({"dataset": "unheard_of", "template": "hears"}, Modality.AUDIO, "columns of dataset unheard_of are unknown"),
        ({"dataset": "unheard_of", "template": "plain"}, Modality.TEXT, "columns of dataset unheard_of are unknown"),
        ({"dataset": "unheard_of", "template": "what"}, Modality.TEXT, "columns of dataset unheard_of are unknown"),
        ({}, Modality.VIDEO, "no dataset is named; template sees"),
        ({"dataset": "image", "template": "plain"}, Modality.TEXT, "no dataset has a column"),
        ({"dataset": "image", "template": None}, Modality.TEXT, "no dataset has a column"),
        ({"dataset": "image", "template": "what"}, Modality.IMAGE, "dataset image, column images"),
        ({"dataset": "hub_video", "template": "pictures"}, Modality.TEXT, "no dataset has a column"),
        ({"dataset": "image", "stage": "pt"}, Modality.TEXT, "stage pt"),
        ({"dataset": "image", "dataset_dir": "ONLINE"}, Modality.VIDEO, "columns of dataset image are unknown"),
        ({"dataset": "image", "dataset_dir": "REMOTE:a/b"}, Modality.VIDEO, "columns of dataset image are unknown"),
        ({"dataset": "image", "dataset_dir": "/nowhere"}, Modality.VIDEO, "columns of dataset image are unknown"),
    ],
)
def test_modality(folder: Path, templates: Path, config: dict[str, Any], modality: Modality, source: str) -> None:
    found = describe(folder, templates, **config)
    assert found.modality is modality
    assert found.modality_source.startswith(source)


def test_an_image_column_under_a_text_template_is_noted(folder: Path, templates: Path) -> None:
    found = describe(folder, templates, dataset="image", template="plain")
    assert "Dataset image has images, which template plain does not take." in found.notes


def test_without_llamafactory_the_columns_decide(folder: Path) -> None:
    assert describe(folder, None, dataset="image").modality is Modality.IMAGE
    assert describe(folder, None, dataset="unheard_of").modality is Modality.TEXT
    assert any("LLaMA-Factory is not installed" in note for note in describe(folder, None, dataset="image").notes)


def test_the_table_may_be_the_argument(templates: Path) -> None:
    table = {"a": {"hf_hub_url": "x/y", "columns": {"images": "images"}}}
    found = describe(table, templates, dataset="a")
    assert found.modality is Modality.IMAGE and found.train_rows is None
    assert found.batch_source == "no row could be looked at; the largest LLaMA-Factory allows was assumed"


@pytest.mark.parametrize(
    ("config", "rows", "exact"),
    [
        ({"dataset": "text"}, 20, True),
        ({"dataset": "text,image"}, 30, True),
        ({"dataset": "text,image", "max_samples": "15"}, 25, True),
        ({"dataset": "text", "val_size": 0.1}, 18, True),
        ({"dataset": "text", "val_size": 5}, 15, True),
        ({"dataset": "text", "val_size": 0.33}, 13, True),
        ({"dataset": "text,hub_video"}, None, False),
        ({"dataset": "lost_image"}, None, False),
        ({}, None, False),
        ({"dataset": "text", "packing": True, "cutoff_len": 200}, 10, False),
    ],
)
def test_rows(folder: Path, templates: Path, config: dict[str, Any], rows: int | None, exact: bool) -> None:
    found = describe(folder, templates, **config)
    assert (found.train_rows, found.train_rows_exact) == (rows, exact)


def test_a_mix_is_counted_as_if_concatenated(folder: Path, templates: Path) -> None:
    found = describe(folder, templates, dataset="text,image", mix_strategy="interleave_over")
    assert found.train_rows == 30 and any("interleaves" in note for note in found.notes)


def test_what_is_lost_is_assumed_as_large_as_it_may_be(folder: Path, templates: Path) -> None:
    known = describe(folder, templates, dataset="image", per_device_train_batch_size=2)
    lost = describe(folder, templates, dataset="lost_image", per_device_train_batch_size=2)
    assert lost.batch_bytes > 1.5 * known.batch_bytes
    assert any("lost.json does not exist" in note for note in lost.notes)


def test_missing_media_files_are_assumed_too(folder: Path, templates: Path) -> None:
    known = describe(folder, templates, dataset="image")
    elsewhere = describe(folder, templates, dataset="image", media_dir="/nowhere")
    assert elsewhere.batch_bytes > known.batch_bytes and elsewhere.modality is Modality.IMAGE


def test_evaluation_has_a_batch_of_its_own(folder: Path, templates: Path) -> None:
    quiet = describe(folder, templates, dataset="text", eval_dataset="image")
    assert (quiet.evaluates, quiet.eval_batch_bytes) == (False, None)
    busy = describe(folder, templates, dataset="text", eval_dataset="image", eval_strategy="steps")
    assert busy.evaluates and busy.eval_batch_bytes is not None
    assert busy.eval_batch_bytes > 10 * busy.batch_bytes
    split = describe(folder, templates, dataset="text", val_size=0.1, do_eval=True, per_device_eval_batch_size=2)
    assert split.eval_batch_bytes is not None and split.eval_batch_bytes < split.batch_bytes


def test_a_text_batch_of_a_vision_template_carries_a_blank_image(folder: Path, templates: Path) -> None:
    plain = describe(folder, templates, dataset="text", template="plain")
    sees = describe(folder, templates, dataset="text")
    assert sees.batch_bytes - plain.batch_bytes > 16 * 1176 * 4
    assert (plain.files_per_batch, sees.files_per_batch) == (3, 7)


def test_a_stream_is_shuffled_and_tokenised_by_the_worker_itself(folder: Path, templates: Path) -> None:
    mapped = describe(folder, templates, dataset="image")
    stream = describe(folder, templates, dataset="image", streaming=True, buffer_size=1000)
    assert stream.streaming and stream.batch_bytes == mapped.batch_bytes
    assert stream.batch_cpu_s > 2 * mapped.batch_cpu_s
    assert stream.decode_bytes > mapped.decode_bytes + 10 * 1024


def test_a_stream_of_unknown_length_fills_its_buffer(templates: Path) -> None:
    table = {"a": {"hf_hub_url": "x/y"}}
    small, large = (
        describe(table, templates, dataset="a", streaming=True, buffer_size=size).decode_bytes for size in (10, 10_010)
    )
    assert large - small > 10_000 * 1024


def test_a_dataset_of_unknown_length_weighs_as_much_as_a_known_one(folder: Path, templates: Path) -> None:
    text = describe(folder, templates, dataset="text").batch_cpu_s
    lost = describe(folder, templates, dataset="lost_image").batch_cpu_s
    mixed = describe(folder, templates, dataset="text,lost_image").batch_cpu_s
    assert mixed == pytest.approx((text + lost) / 2, rel=0.1)


def test_tokenising_a_row_costs_the_same_in_every_stage(folder: Path, templates: Path) -> None:
    costs = {
        describe(folder, templates, dataset="image", stage=stage, neat_packing=packing).preprocessing_row_bytes
        for stage, packing in (("sft", False), ("sft", True), ("dpo", False), ("kto", False))
    }
    assert len(costs) == 1


def test_the_source_of_rows_names_the_files(folder: Path, templates: Path) -> None:
    assert describe(folder, templates, dataset="text").rows_source == "counted in text (text.json)"
    assert describe(folder, templates, dataset="hub_video").rows_source == "not known for hub_video"


def test_tokenised_data_is_described_by_its_features(
    tmp_path: Path, folder: Path, templates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # Else its monitor thread stays behind.
    rows = [{"input_ids": [1] * 100, "images": [str(folder / "a.png")], "videos": None, "audios": None}] * 12
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "saved")
    found = describe(folder, templates, dataset="text", tokenized_path=str(tmp_path / "saved"))
    assert (found.modality, found.train_rows, found.train_rows_exact) == (Modality.IMAGE, 12, True)
    assert describe(folder, templates, dataset="text", tokenized_path=str(tmp_path / "new")).train_rows == 20


def test_weights_are_measured_in_a_local_folder(tmp_path: Path, folder: Path, templates: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name, size in (("model-1.safetensors", 300), ("model-2.safetensors", 200), ("pytorch_model.bin", 999)):
        (model / name).write_bytes(bytes(size))
    found = describe(folder, templates, dataset="text", model_name_or_path=str(model))
    assert (found.checkpoint_bytes, found.largest_shard_bytes) == (500, 300)
    found = describe(folder, templates, dataset="text", model_name_or_path="someone/not-here")
    assert (found.checkpoint_bytes, found.largest_shard_bytes) == (None, None)


def test_weights_of_a_downloaded_model_are_found_in_its_cache(
    tmp_path: Path, folder: Path, templates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--someone--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc\n")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "model.safetensors").write_bytes(bytes(100))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert describe(folder, templates, dataset="text", model_name_or_path="someone/model").checkpoint_bytes == 100


def test_videos_counted_by_header_need_no_memory_to_tokenise(tmp_path: Path, templates: Path) -> None:
    av = pytest.importorskip("av")
    data = tmp_path / "clips"
    data.mkdir()
    with av.open(str(data / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for _ in range(30):
            container.mux(stream.encode(av.VideoFrame(640, 480, "yuv420p")))
        container.mux(stream.encode())
    (data / "a.json").write_text(json.dumps([{"videos": ["a.mp4"]}]))
    (data / "dataset_info.json").write_text(json.dumps({"a": {"file_name": "a.json", "columns": {"videos": "videos"}}}))
    before = describe(data, templates, dataset="a")
    (templates.parent / "mm_plugin.py").write_text("    def _get_qwen_video_grid_metadata(self): ...\n")
    after = describe(data, templates, dataset="a")
    assert after.preprocessing_row_bytes < before.preprocessing_row_bytes / 5
    assert after.batch_bytes == before.batch_bytes


WORDS = st.text("a0.,-/\0é", max_size=6) | st.sampled_from(["true", "ONLINE", "REMOTE:", "kto", "1e400", "0", "fa2"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)
KEYS = (
    *("stage", "dataset", "eval_dataset", "dataset_dir", "media_dir", "tokenized_path", "template", "cutoff_len"),
    *("model_name_or_path", "streaming", "max_samples", "val_size", "mix_strategy", "packing", "neat_packing"),
    *("per_device_train_batch_size", "num_train_epochs", "max_steps", "image_max_pixels", "image_min_pixels"),
    *("video_fps", "video_maxlen", "video_max_pixels", "bf16", "eval_strategy", "flash_attn"),
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING))
def test_no_config_raises(config: dict[str, Any]) -> None:
    found = describe_workload(config, template_source=None)
    assert found.batch_bytes >= 0 and found.files_per_batch >= 3


@pytest.mark.parametrize("value", ["0", -1, 1, 1e-9, 4096, 2**40, "1e300", "inf", 10**400])
@pytest.mark.parametrize("dataset", ["image", "hub_video"])
def test_no_number_is_too_odd(folder: Path, templates: Path, dataset: str, value: Any) -> None:
    for key in (
        *(key for key in KEYS if "len" in key or "pixels" in key or "max" in key or "batch" in key),
        "val_size",
    ):
        found = describe(folder, templates, dataset=dataset, neat_packing=True, eval_strategy="steps", **{key: value})
        assert found.batch_bytes > 0


def test_a_huge_file_is_described_in_half_a_second(tmp_path: Path, templates: Path) -> None:
    row = json.dumps({"instruction": "hello " * 40, "output": "world " * 200}) + ",\n"
    with (tmp_path / "huge.json").open("w") as file:
        file.write("[\n")
        for _ in range(150):
            file.write(row * 1000)
        file.write(row.rstrip(",\n") + "]\n")
    (tmp_path / "dataset_info.json").write_text(json.dumps({"huge": {"file_name": "huge.json"}}))
    start = time.process_time()
    found = describe(tmp_path, templates, dataset="huge")
    assert time.process_time() - start < 0.5
    assert found.train_rows == pytest.approx(150_001, rel=0.01) and not found.train_rows_exact


def test_nothing_heavy_is_imported(folder: Path, templates: Path) -> None:
    script = (
        "import sys; from lf_autoworkers.workload import describe_workload, find_template_source;"
        "from pathlib import Path; find_template_source();"
        f"describe_workload({{'dataset_dir': {str(folder)!r}, 'dataset': 'text,image', 'template': 'sees'}},"
        f" template_source=Path({str(templates)!r}));"
        "print({'torch', 'transformers', 'datasets', 'llamafactory', 'numpy'} & set(sys.modules) or 'light')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "light"


@pytest.mark.parametrize(
    ("deepspeed", "expected"),
    [
        ({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}, True),
        ('{"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}', True),
        ({"zero_optimization": {"stage": 2}}, False),
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, False),
        ("nowhere.json", False),
        (None, False),
    ],
)
def test_where_the_optimizer_lives(deepspeed: object, expected: bool) -> None:
    found = describe_workload({"finetuning_type": "full", "deepspeed": deepspeed}, template_source=None)
    assert found.offloads_optimizer is expected
    assert found.trains_all_weights
    assert not describe_workload({}, template_source=None).trains_all_weights
