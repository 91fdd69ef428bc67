"""Arithmetic of batch bytes, and properties that any estimate of them must have."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lf_autoworkers.workload.arguments import read_arguments
from lf_autoworkers.workload.batches import batches_of_run, largest_batch
from lf_autoworkers.workload.cost import RowCost, audio_cost, batch_cost, image_cost, text_cost, video_cost
from lf_autoworkers.workload.media import AudioHeader, ImageHeader, VideoHeader
from lf_autoworkers.workload.processor import read_geometry

QWEN = read_geometry("qwen2_vl", None)
PLAIN = read_geometry("base", None)
PLUGINS = ("qwen2_vl", "qwen3_vl", "llava", "llava_next", "kimi_vl", "minicpm_v")


def run(**config: Any) -> Any:
    return read_arguments(config)


def test_a_qwen_image_is_patches_of_two_frames() -> None:
    cost = image_cost(ImageHeader(560, 280), run(), QWEN)
    assert cost.floats == 2 * 3 * 560 * 280
    assert cost.tokens == (560 // 28) * (280 // 28)


def test_a_large_image_is_shrunk_to_llamafactorys_limit_before_the_processor() -> None:
    cost = image_cost(ImageHeader(4000, 4000), run(image_max_pixels=784 * 784), QWEN)
    assert cost.floats == 2 * 3 * 784 * 784
    assert (cost.held_pixels, cost.decoded_pixels) == (784 * 784, 16_000_000)


def test_a_video_keeps_its_sampled_frames_at_full_size_while_it_is_decoded() -> None:
    cost = video_cost(VideoHeader(1280, 720, 240, 10.0), run(video_fps=2, video_max_pixels=128 * 72), QWEN)
    assert cost.decoded_pixels == 20 * 1280 * 720
    assert cost.floats == 20 * 3 * 140 * 84


def test_an_odd_number_of_frames_is_made_even() -> None:
    assert video_cost(VideoHeader(280, 280, 5, 5.0), run(), QWEN).floats == 6 * 3 * 252 * 252


def test_a_list_of_frames_is_not_sampled() -> None:
    cost = video_cost(VideoHeader(252, 252, 40, 0.0, decoded=False), run(video_maxlen=4), QWEN)
    assert cost.floats == 40 * 3 * 252 * 252
    assert (cost.decoded_pixels, cost.codec_pixels) == (252 * 252, 0)


def test_crops_are_of_images_frames_stay_whole() -> None:
    geometry = read_geometry("llava_next_video", None)
    assert image_cost(ImageHeader(800, 600), run(), geometry).floats == 5 * 3 * 336 * 336
    assert video_cost(VideoHeader(800, 600, 100, 2.0), run(), geometry).floats == 4 * 3 * 336 * 336


def test_audio_is_padded_to_the_extractors_full_length() -> None:
    clip = AudioHeader(3.0, 48000, 2)
    whisper = audio_cost(clip, run(), read_geometry("qwen2_audio", None))
    assert whisper.floats == 128 * 3000
    assert audio_cost(clip, run(), read_geometry("qwen2_omni", None)).floats == 128 * 30000
    assert whisper.decoded_pixels == 3 * (48000 * 2 + 16000)


def test_text_is_three_integers_a_token_padded_to_eight() -> None:
    batch = batch_cost([text_cost(9), text_cost(3)], run(), PLAIN)
    assert batch.batch_bytes == 2 * 16 * 3 * 8


def test_multimodal_positions_are_four_integers_more() -> None:
    assert batch_cost([text_cost(8)], run(), QWEN).batch_bytes == 8 * (3 + 4) * 8


@pytest.mark.parametrize(("config", "size"), [({"bf16": True}, 2), ({}, 4)])
def test_neat_packing_replaces_the_mask_by_a_square(config: dict[str, Any], size: int) -> None:
    batch = batch_cost([text_cost(64)], run(neat_packing=True, **config), PLAIN)
    assert batch.batch_bytes == 64 * 2 * 8 + 64 * 64 * size


def test_flash_attention_needs_no_square() -> None:
    batch = batch_cost([text_cost(64)], run(neat_packing=True, flash_attn="fa2"), PLAIN)
    assert batch.batch_bytes == 64 * 3 * 8


def test_preference_rows_count_twice_and_kto_decodes_twice() -> None:
    row = image_cost(ImageHeader(560, 280), run(), QWEN)
    sft, dpo, kto = (batch_cost([row], run(stage=stage), QWEN) for stage in ("sft", "dpo", "kto"))
    assert dpo.batch_bytes == 2 * sft.batch_bytes
    assert kto.batch_bytes - sft.batch_bytes == 3 * 8 * 200
    assert kto.cpu_s == dpo.cpu_s > sft.cpu_s


def test_half_precision_halves_the_batch_and_not_the_memory_to_make_it() -> None:
    row = image_cost(ImageHeader(560, 280), run(), QWEN)
    full, half = batch_cost([row], run(), QWEN), batch_cost([row], run(bf16=True), QWEN)
    assert half.batch_bytes < 0.6 * full.batch_bytes
    assert half.decode_bytes > full.decode_bytes


IMAGES = st.builds(ImageHeader, st.integers(1, 5000), st.integers(1, 5000))
VIDEOS = st.builds(VideoHeader, st.integers(16, 2000), st.integers(16, 2000), st.integers(0, 900), st.floats(0, 60))


@given(st.lists(IMAGES, min_size=1, max_size=4), st.integers(1, 16), st.integers(1, 8), st.sampled_from(PLUGINS))
def test_more_rows_never_cost_less(images: list[ImageHeader], size: int, more: int, plugin: str) -> None:
    geometry, config = read_geometry(plugin, None), run()
    rows = [image_cost(image, config, geometry) for image in images]
    weights = [1.0] * len(rows)
    small = largest_batch(rows, weights, size, 50, config, geometry)
    large = largest_batch(rows, weights, size + more, 50, config, geometry)
    assert large.batch_bytes >= small.batch_bytes * 0.9  # Other draws; with equal rows exactly, see below.
    assert large.cpu_s > small.cpu_s
    equal = [largest_batch(rows[:1], [1.0], n, 50, config, geometry) for n in (size, size + more)]
    assert equal[1].batch_bytes > equal[0].batch_bytes
    assert equal[1].decode_bytes >= equal[0].decode_bytes


@given(IMAGES, st.integers(32 * 32, 4_000_000), st.floats(1.5, 10), st.sampled_from(PLUGINS))
def test_a_higher_pixel_limit_never_costs_less(image: ImageHeader, limit: int, factor: float, plugin: str) -> None:
    geometry = read_geometry(plugin, None)
    low, high = (
        batch_cost([image_cost(image, run(image_max_pixels=pixels), geometry)], run(), geometry)
        for pixels in (limit, int(limit * factor))
    )
    # Snapping to whole patches may round the aspect of a thin image the other way by one patch row.
    step = 28 * (max(image.width, image.height) + 56) * 24 * 2
    assert high.batch_bytes >= low.batch_bytes - step
    assert high.decode_bytes >= low.decode_bytes - 4 * step


@given(VIDEOS, st.integers(1, 64), st.integers(1, 64))
def test_more_frames_never_cost_less(video: VideoHeader, most: int, more: int) -> None:
    few, many = (video_cost(video, run(video_maxlen=frames), QWEN) for frames in (most, most + more))
    assert many.floats >= few.floats
    assert many.decoded_pixels >= few.decoded_pixels
    assert many.cpu_s >= few.cpu_s


def test_the_largest_batch_lies_between_the_mean_and_the_sum_of_the_largest() -> None:
    rows = [RowCost(floats=1000 * i, tokens=8) for i in range(1, 401)]
    estimate = largest_batch(rows, None, 8, batches_of_run(run(), 400, 8), run(), PLAIN).batch_bytes
    mean = batch_cost([RowCost(floats=200_500, tokens=8)] * 8, run(), PLAIN).batch_bytes
    top = batch_cost(rows[-8:], run(), PLAIN).batch_bytes
    assert 1.2 * mean < estimate < 0.95 * top


def test_one_giant_among_a_million_rows_is_in_the_largest_batch() -> None:
    rows = [RowCost(floats=1000, tokens=8), RowCost(floats=1e8, tokens=8)]
    estimate = largest_batch(rows, [1e6, 1.0], 4, None, run(), PLAIN)
    assert 4e8 < estimate.batch_bytes < 4.2e8


def test_the_mean_batch_tells_the_seconds_and_the_deepest_row_the_decoding() -> None:
    rows = [RowCost(tokens=8, cpu_s=1.0), RowCost(tokens=8, decoded_pixels=1e6, cpu_s=0.0)]
    estimate = largest_batch(rows, [3.0, 1.0], 2, 10, run(), PLAIN)
    assert estimate.cpu_s == pytest.approx(1.5, abs=0.01)
    assert estimate.decode_bytes == 4e6


def test_a_dataset_smaller_than_a_batch_makes_a_smaller_batch() -> None:
    rows = [text_cost(8)] * 3
    estimate = largest_batch(rows, None, 8, 5, run(), PLAIN)
    assert estimate.batch_bytes == batch_cost(rows, run(), PLAIN).batch_bytes


@pytest.mark.parametrize(
    ("config", "rows", "batches"),
    [
        ({}, 20, 9),
        ({"num_train_epochs": 0.5}, 80, 5),
        ({"max_steps": 7, "gradient_accumulation_steps": 3}, 20, 21),
        ({"max_steps": 7}, None, 7),
        ({}, None, None),
    ],
)
def test_batches_of_a_run(config: dict[str, Any], rows: int | None, batches: int | None) -> None:
    assert batches_of_run(run(**config), rows, 8) == batches
