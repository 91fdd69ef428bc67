"""Sizes of images, videos and audio clips from their headers; no pixel is decoded.

Covers one medium at a time. Which media belong to which row is told by `dataset`; what they cost by `cost`. Pillow
and PyAV are optional: without them, or for a broken file, the answer is ``None``.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """An image's size in pixels."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class VideoHeader:
    """A video's frame size in pixels, its number of frames and its length in seconds.

    ``frames`` is 0 where the container does not say; LLaMA-Factory then samples up to its maximum.
    ``decoded`` is false for a video that is a list of image files: its frames are all kept, none is searched for.
    """

    width: int
    height: int
    frames: int
    duration_s: float
    decoded: bool = True


@dataclass(frozen=True, slots=True)
class AudioHeader:
    """An audio clip's length in seconds and its own sampling rate and channels."""

    duration_s: float
    sampling_rate: int
    channels: int


def _source(medium: Any, folder: Path) -> str | io.BytesIO | None:
    """Return what a reader can open: LLaMA-Factory accepts a path, bytes, or ``{"path", "bytes"}``."""
    if isinstance(medium, dict):
        medium = medium.get("bytes") or medium.get("path")
    if isinstance(medium, bytes):
        return io.BytesIO(medium)
    if isinstance(medium, str) and medium:
        below = folder / medium
        return str(below) if below.is_file() else medium
    return None


def image_header(medium: Any, folder: Path) -> ImageHeader | None:
    """Return the size of one image.

    Args:
        medium: As a dataset row holds it: a path (below ``folder`` or of its own), bytes, or both in a mapping.
        folder: LLaMA-Factory's ``media_dir``.
    """
    source = _source(medium, folder)
    if source is None:
        return None
    try:
        from PIL import Image

        with warnings.catch_warnings():
            # Pillow warns of very large images here already; the trainer's own decode is the place for that.
            warnings.simplefilter("ignore")
            with Image.open(source) as image:
                width, height = image.size
    except Exception:  # Pillow's plugins raise whatever a broken header provokes (SyntaxError, struct.error, ...).
        return None
    return ImageHeader(width, height) if width > 0 and height > 0 else None


def video_header(medium: Any, folder: Path) -> VideoHeader | None:
    """Return the header of one video; a list of image files counts as a video of that many frames."""
    if isinstance(medium, list):
        frame = next((header for item in medium if (header := image_header(item, folder)) is not None), None)
        if frame is None:
            return None
        return VideoHeader(frame.width, frame.height, len(medium), 0.0, decoded=False)
    source = _source(medium, folder)
    if source is None:
        return None
    try:
        import av

        with av.open(source, "r") as container:
            stream = container.streams.video[0]
            length = stream.duration * stream.time_base if stream.duration and stream.time_base else 0
            found = VideoHeader(stream.width, stream.height, stream.frames, float(length))
    except Exception:  # FFmpeg's errors, and IndexError for a file without a video stream.
        return None
    return found if found.width > 0 and found.height > 0 else None


def audio_header(medium: Any, folder: Path) -> AudioHeader | None:
    """Return the header of one audio clip."""
    source = _source(medium, folder)
    if source is None:
        return None
    try:
        import av

        with av.open(source, "r") as container:
            stream = container.streams.audio[0]
            if stream.duration and stream.time_base:
                length = float(stream.duration * stream.time_base)
            else:
                length = (container.duration or 0) / av.time_base
            return AudioHeader(length, stream.rate, stream.channels)
    except Exception:
        return None
