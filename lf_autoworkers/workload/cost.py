"""Bytes and CPU seconds of a collated batch, computed from header sizes under LLaMA-Factory's own limits.

Covers one medium, one row, one batch; pure arithmetic. What is in the rows is found by `survey`; which rows meet in a
batch is told by `batches`.

The constants of memory and time were fitted by ``benchmarks/bench_batch_bytes.py`` against real workers (LLaMA-Factory
0.9.5, transformers 5.6.0, torch 2.11.0, one thread); its table stands in ``benchmarks/batch_bytes.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .arguments import RunArguments
from .media import AudioHeader, ImageHeader, VideoHeader
from .processor import Geometry, resized, sampled_frames, snapped

INT_BYTES = 8
"""Token ids, masks, labels and positions are int64."""

DECODED_PIXEL_BYTES = 4
"""Pillow keeps an RGB pixel in four bytes."""

PROCESSOR_COPIES = 3.65
"""Private memory of an image processor at its peak, beside its result and in units of it (measured 3.3 to 3.7)."""

CODEC_BYTES_PER_PIXEL = 40
"""Memory of a video decoder (reference frames, threads) for each pixel of a frame."""

IMAGE_DECODE_S_PER_PIXEL = 12e-9
"""JPEG to RGB, and the resize that follows."""

VIDEO_DECODE_S_PER_PIXEL = 1.2e-9
"""H.264; LLaMA-Factory decodes every frame of a video, whatever it keeps. Measured 0.7 to 1.7 with the content."""

FRAME_KEEP_S_PER_PIXEL = 11e-9
"""A kept frame's conversion to RGB and its resize."""

PROCESS_S_PER_FLOAT = 12e-9
"""Rescale, normalise, patches: first use of fresh memory is a good part of it."""

AUDIO_S_PER_SECOND = 1.5e-3
"""Decode, resample and log-mel features of a second of audio (benchmarks/batch_bytes.md)."""

TOKEN_S = 0.7e-6
BATCH_S = 1.5e-3


@dataclass(frozen=True, slots=True)
class RowCost:
    """What one row (or one packed sequence) adds to a batch.

    Attributes:
        floats: Floating point numbers of all media, as the processor returns them.
        extra_bytes: Media tensors of other types (audio masks, grids), in bytes.
        tokens: Token ids.
        held_pixels: Pixels of resized media that stay in memory until the whole batch is processed.
        decoded_pixels: Most pixels decoded at full resolution at the same time.
        codec_pixels: Pixels of the largest frame a video decoder is open for.
        cpu_s: CPU seconds.
    """

    floats: float = 0.0
    extra_bytes: float = 0.0
    tokens: int = 0
    held_pixels: float = 0.0
    decoded_pixels: float = 0.0
    codec_pixels: float = 0.0
    cpu_s: float = 0.0

    def __add__(self, other: RowCost) -> RowCost:
        return RowCost(
            self.floats + other.floats,
            self.extra_bytes + other.extra_bytes,
            self.tokens + other.tokens,
            self.held_pixels + other.held_pixels,
            max(self.decoded_pixels, other.decoded_pixels),
            max(self.codec_pixels, other.codec_pixels),
            self.cpu_s + other.cpu_s,
        )

    def with_tokens(self, tokens: int) -> RowCost:
        """Return this row with ``tokens`` ids in all, and their time: LLaMA-Factory cuts ids and keeps the media."""
        return replace(self, tokens=tokens, cpu_s=self.cpu_s + tokens * TOKEN_S)


@dataclass(frozen=True, slots=True)
class BatchCost:
    """One collated batch.

    Attributes:
        batch_bytes: All tensors together.
        decode_bytes: Private memory needed beside them while the batch is made.
        cpu_s: CPU seconds to make it.
    """

    batch_bytes: int
    decode_bytes: int
    cpu_s: float


def image_cost(image: ImageHeader, run: RunArguments, geometry: Geometry) -> RowCost:
    """Return what one image adds to its row."""
    full = image.width * image.height
    width, height = resized(image.width, image.height, run.image_min_pixels, run.image_max_pixels)
    frame = _frame(width, height, geometry, *geometry.image_pixels)
    repeats = geometry.temporal if geometry.rule == "patches" else 1
    return RowCost(
        floats=frame.floats * repeats,
        extra_bytes=3 * INT_BYTES,
        tokens=frame.tokens,
        held_pixels=width * height,
        decoded_pixels=full,
        cpu_s=full * IMAGE_DECODE_S_PER_PIXEL + frame.floats * repeats * PROCESS_S_PER_FLOAT,
    )


def video_cost(video: VideoHeader, run: RunArguments, geometry: Geometry) -> RowCost:
    """Return what one video adds to its row."""
    if video.decoded:
        frames = sampled_frames(video.frames, video.duration_s, run.video_fps, run.video_maxlen)
    else:
        frames = video.frames
    pairs = math.ceil(frames / geometry.temporal)
    frames = pairs * geometry.temporal
    full = video.width * video.height
    width, height = resized(video.width, video.height, run.video_min_pixels, run.video_max_pixels)
    single = replace(geometry, crops=1)  # Frames are never cut into several crops.
    frame = _frame(width, height, single, *geometry.video_pixels, frames=frames if geometry.video_total else 1)
    floats = frame.floats * frames
    searched = max(video.frames, frames) if video.decoded else 0
    per_frame_s = FRAME_KEEP_S_PER_PIXEL if video.decoded else IMAGE_DECODE_S_PER_PIXEL
    return RowCost(
        floats=floats,
        extra_bytes=3 * INT_BYTES,
        tokens=frame.tokens * (pairs if geometry.rule == "patches" else frames),
        held_pixels=width * height * frames,
        decoded_pixels=full * (frames if video.decoded else 1),
        codec_pixels=full if video.decoded else 0,
        cpu_s=full * (searched * VIDEO_DECODE_S_PER_PIXEL + frames * per_frame_s) + floats * PROCESS_S_PER_FLOAT,
    )


def audio_cost(audio: AudioHeader, run: RunArguments, geometry: Geometry) -> RowCost:
    """Return what one audio clip adds to its row: log-mel features padded to the extractor's full length.

    Met by real batches of Qwen2-Audio where torchcodec and FFmpeg can decode files (tests/real/test_audio.py).
    """
    waveform = audio.duration_s * (audio.sampling_rate * audio.channels + run.audio_sampling_rate)
    return RowCost(
        floats=geometry.mel_bins * geometry.mel_frames,
        extra_bytes=geometry.mel_frames * INT_BYTES,
        tokens=math.ceil(min(audio.duration_s * 100, geometry.mel_frames) / 4),
        decoded_pixels=waveform,
        cpu_s=max(audio.duration_s, geometry.mel_frames / 100) * AUDIO_S_PER_SECOND,
    )


def text_cost(tokens: int) -> RowCost:
    """Return what ``tokens`` of text add to their row."""
    return RowCost(tokens=tokens, cpu_s=tokens * TOKEN_S)


def _frame(width: int, height: int, geometry: Geometry, least: int, most: int, *, frames: int = 1) -> RowCost:
    """Return floats and tokens of one image or frame that LLaMA-Factory has scaled to ``width`` x ``height``."""
    if geometry.rule == "patches":
        step = geometry.patch * geometry.merge
        wide, high = snapped(width, height, step, least, most, frames)
        return RowCost(floats=3 * wide * high, tokens=wide * high // step**2)
    if geometry.rule == "crops":
        pixels = geometry.side**2 * geometry.crops
        return RowCost(floats=3 * pixels, tokens=pixels // 14**2)
    return RowCost(floats=3 * width * height, tokens=width * height // 28**2)


def batch_cost(rows: Sequence[RowCost], run: RunArguments, geometry: Geometry) -> BatchCost:
    """Return the cost of a batch of ``rows``, as the collator of ``run.stage`` makes it.

    Preference stages put the chosen and the rejected answer of each row into the batch, media and all. KTO runs the
    collator twice and keeps the second result's tokens only.
    """
    if not rows:
        return BatchCost(0, 0, 0.0)
    pairs = 2 if run.stage in {"rm", "dpo"} else 1
    passes = 2 if run.stage == "kto" else 1
    length = math.ceil(max(row.tokens for row in rows) / 8) * 8
    count = len(rows) * pairs
    total = sum(rows, RowCost())
    tensor_bytes = pairs * (total.floats * run.float_bytes + total.extra_bytes)
    tensor_bytes += count * length * INT_BYTES * (3 * passes + geometry.positions)
    if run.neat_packing and run.stage == "sft" and not run.flash_attention:
        tensor_bytes += count * length**2 * run.float_bytes - count * length * INT_BYTES
    processed_bytes = pairs * total.floats * 4
    uncast_bytes = processed_bytes if run.float_bytes < 4 else 0
    held_bytes = pairs * total.held_pixels * DECODED_PIXEL_BYTES
    decoding_bytes = total.decoded_pixels * DECODED_PIXEL_BYTES
    beside = held_bytes + max(decoding_bytes, PROCESSOR_COPIES * processed_bytes) + uncast_bytes
    beside += total.codec_pixels * CODEC_BYTES_PER_PIXEL
    return BatchCost(
        batch_bytes=int(tensor_bytes),
        decode_bytes=int(beside),
        cpu_s=BATCH_S + total.cpu_s * pairs * passes,
    )
