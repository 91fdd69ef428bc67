"""Sizes that processors resize to, and the settings a model's folder gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lf_autoworkers.workload.processor import read_geometry, resized, sampled_frames, snapped


@pytest.mark.parametrize(
    ("size", "frames", "expected"),
    [
        ((640, 480), 1, (644, 476)),
        ((1920, 1080), 1, (1316, 728)),
        ((30, 40), 1, (56, 84)),
        ((10, 2000), 1, (28, 1988)),
        ((640, 480), 8, (392, 280)),
    ],
)
def test_snapping_keeps_the_aspect_within_the_limits(
    size: tuple[int, int], frames: int, expected: tuple[int, int]
) -> None:
    assert snapped(*size, 28, 3136, 1003520, frames) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1920, 1080), (1024, 576)), ((768, 768), (768, 768)), ((10, 10), (32, 32)), ((1, 10_000), (1, 10_000))],
)
def test_llamafactorys_own_limits(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized(*size, 1024, 589824) == expected


@pytest.mark.parametrize(
    ("frames", "seconds", "expected"),
    [(240, 10.0, 20), (240, 100.0, 128), (5, 10.0, 5), (240, 0.1, 1), (0, 0.0, 128)],
)
def test_frames_are_sampled_by_time_up_to_the_limit(frames: int, seconds: float, expected: int) -> None:
    assert sampled_frames(frames, seconds, 2.0, 128) == expected


def write(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_old_style_settings_serve_images_and_videos(tmp_path: Path) -> None:
    folder = write(tmp_path, preprocessor_config={"min_pixels": 3136, "max_pixels": 50000, "patch_size": 16})
    geometry = read_geometry("qwen2_vl", folder)
    assert (geometry.patch, geometry.image_pixels, geometry.video_pixels) == (16, (3136, 50000), (3136, 50000))


def test_new_style_settings_are_nested_and_differ(tmp_path: Path) -> None:
    def size(most: int) -> dict[str, Any]:
        return {"size": {"shortest_edge": 3136, "longest_edge": most}}

    folder = write(tmp_path, processor_config={"image_processor": size(50000), "video_processor": size(20000)})
    geometry = read_geometry("qwen2_vl", folder)
    assert (geometry.image_pixels[1], geometry.video_pixels[1]) == (50000, 20000)


def test_a_crop_side_and_audio_features_are_read(tmp_path: Path) -> None:
    folder = write(tmp_path, preprocessor_config={"size": {"height": 224, "width": 224}, "feature_size": 80})
    assert read_geometry("paligemma", folder).side == 224
    folder = write(tmp_path, preprocessor_config={"feature_size": 80, "nb_max_frames": 1000})
    geometry = read_geometry("qwen2_audio", folder)
    assert (geometry.mel_bins, geometry.mel_frames) == (80, 1000)


@pytest.mark.parametrize("content", ["{", "[]", {"patch_size": "large", "size": 5, "max_pixels": -1}])
def test_broken_settings_mean_the_plugins_own(tmp_path: Path, content: Any) -> None:
    assert read_geometry("qwen2_vl", write(tmp_path, preprocessor_config=content)) == read_geometry("qwen2_vl", None)


@pytest.mark.parametrize("plugin", ["", "base", "brand_new_vl"])
def test_an_unknown_plugin_follows_the_generic_rule(plugin: str) -> None:
    assert read_geometry(plugin, None).rule == "generic"
