"""Sizes of media from their headers, in every shape a row may hold them."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import pytest

from lf_autoworkers.workload.media import (
    AudioHeader,
    ImageHeader,
    VideoHeader,
    audio_header,
    image_header,
    video_header,
)


def save_image(path: Path, size: tuple[int, int], mode: str = "RGB") -> Path:
    image = pytest.importorskip("PIL.Image")
    image.new(mode, size).save(path)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif"])
def test_an_image_is_measured_by_path_below_the_folder(tmp_path: Path, name: str) -> None:
    save_image(tmp_path / name, (64, 48))
    assert image_header(name, tmp_path) == ImageHeader(64, 48)


def test_an_image_may_come_as_bytes_or_mapping_or_absolute_path(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png", (64, 48))
    content = path.read_bytes()
    elsewhere = tmp_path / "elsewhere"
    for medium in (content, {"bytes": content, "path": None}, {"bytes": None, "path": str(path)}, str(path)):
        assert image_header(medium, elsewhere) == ImageHeader(64, 48)


@pytest.mark.filterwarnings("error")
def test_an_image_above_pillows_limit_is_measured_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pytest.importorskip("PIL.Image")
    save_image(tmp_path / "a.png", (64, 48))
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", 2000)
    assert image_header("a.png", tmp_path) == ImageHeader(64, 48)


@pytest.mark.parametrize(
    "medium", ["missing.png", "", None, 7, [], {}, b"", b"no image", {"bytes": None, "path": None}]
)
def test_what_is_no_image_is_none(tmp_path: Path, medium: Any) -> None:
    assert image_header(medium, tmp_path) is None
    assert audio_header(medium, tmp_path) is None


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n broken", b"\xff\xd8\xff\xe0 cut off", b"GIF89a"])
def test_a_broken_image_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert image_header("a.png", tmp_path) is None


def save_video(path: Path, frames: int) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode())


def test_a_video_is_measured(tmp_path: Path) -> None:
    save_video(tmp_path / "a.mp4", 25)
    assert video_header("a.mp4", tmp_path) == VideoHeader(64, 48, 25, 2.5)
    assert video_header((tmp_path / "a.mp4").read_bytes(), tmp_path) == VideoHeader(64, 48, 25, 2.5)


def test_a_list_of_images_is_a_video_of_that_many_frames(tmp_path: Path) -> None:
    save_image(tmp_path / "2.png", (64, 48))
    frames = ["missing.png", "2.png", "3.png"]
    assert video_header(frames, tmp_path) == VideoHeader(64, 48, 3, 0.0, decoded=False)


@pytest.mark.parametrize("medium", ["missing.mp4", "a.wav", "", None, [], ["missing.png"], b"no video"])
def test_what_is_no_video_is_none(tmp_path: Path, medium: Any) -> None:
    save_sound(tmp_path / "a.wav", 1.0)
    assert video_header(medium, tmp_path) is None


def save_sound(path: Path, seconds: float) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(int(seconds * 8000) * 4))


def test_an_audio_clip_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("av")
    save_sound(tmp_path / "a.wav", 1.5)
    assert audio_header("a.wav", tmp_path) == AudioHeader(1.5, 8000, 2)
    assert audio_header(io.BytesIO((tmp_path / "a.wav").read_bytes()).getvalue(), tmp_path) == AudioHeader(1.5, 8000, 2)


def test_a_video_without_sound_is_no_audio_clip(tmp_path: Path) -> None:
    save_video(tmp_path / "a.mp4", 5)
    assert audio_header("a.mp4", tmp_path) is None
