"""How a model's processor turns one image, video or audio clip into numbers.

Covers the sizes each multimodal plugin resizes to, with the model folder's own processor settings where it has them.
Bytes and seconds are made of these by `cost`.

Sources: `smart_resize` of transformers' qwen2_vl and qwen3_vl processors (5.6.0), `_preprocess_image` and
`_get_video_sample_indices` of LLaMA-Factory's mm_plugin.py (0.9.5), the preprocessor_config.json of the models named.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a processor makes of media.

    Attributes:
        rule: How its sizes are computed: ``patches`` (Qwen-VL and kin: any size, in steps of patch x merge), ``crops``
            (a fixed number of square crops), ``generic`` (the image as LLaMA-Factory leaves it).
        patch: Side of a vision patch in pixels.
        merge: Patches per side that become one token.
        temporal: Frames that share a patch; a still image is repeated that often.
        image_pixels: Fewest and most pixels of a processed image.
        video_pixels: The same for a video frame, or for all frames together if ``video_total``.
        video_total: Whether ``video_pixels`` counts all frames.
        side: Side of a crop in pixels.
        crops: Most crops of an image.
        mel_bins: Bins of an audio feature frame.
        mel_frames: Feature frames of a clip, to which every clip is padded.
        positions: Planes of position ids the collator adds for multimodal rotary embeddings; 0 where it adds none.
    """

    rule: str = "generic"
    patch: int = 14
    merge: int = 2
    temporal: int = 2
    image_pixels: tuple[int, int] = (56 * 56, 28 * 28 * 16384)
    video_pixels: tuple[int, int] = (56 * 56, 28 * 28 * 16384)
    video_total: bool = False
    side: int = 336
    crops: int = 1
    mel_bins: int = 128
    mel_frames: int = 3000
    positions: int = 0


_QWEN2 = Geometry("patches", positions=4)
_PLUGINS: dict[str, Geometry] = {
    "qwen2_vl": _QWEN2,
    "qwen2_omni": replace(_QWEN2, mel_frames=30000),
    "qwen3_vl": replace(
        _QWEN2, patch=16, image_pixels=(65536, 16777216), video_pixels=(4096, 25165824), video_total=True
    ),
    "glm4v": replace(_QWEN2, image_pixels=(12544, 9633792), video_pixels=(12544, 47040000), video_total=True),
    "ernie_vl": _QWEN2,
    "kimi_vl": Geometry("patches", temporal=1),
    "youtu_vl": Geometry("patches", patch=16, temporal=1),
    "llava": Geometry("crops"),
    "video_llava": Geometry("crops", side=224),
    "llava_next": Geometry("crops", crops=5),
    "llava_next_video": Geometry("crops", crops=5),
    "paligemma": Geometry("crops", side=448),
    "gemma3": Geometry("crops", side=896),
    "gemma3n": Geometry("crops", side=768),
    "mllama": Geometry("crops", side=560, crops=4),
    "llama4": Geometry("crops", crops=17),
    "intern_vl": Geometry("crops", side=448),
    "qwen2_audio": Geometry(),
}


def read_geometry(plugin: str, model: Path | None) -> Geometry:
    """Return how ``plugin`` processes media, with the settings found in the folder ``model``.

    Args:
        plugin: Name of LLaMA-Factory's multimodal plugin.
        model: Folder with ``preprocessor_config.json`` and kin; ``None`` where the model is not on this machine.
    """
    geometry = _PLUGINS.get(plugin, Geometry())
    if model is None:
        return geometry
    nested = _read(model / "processor_config.json")
    image = _section(nested, "image_processor") or _read(model / "preprocessor_config.json")
    video = _section(nested, "video_processor") or _read(model / "video_preprocessor_config.json") or image
    audio = _section(nested, "feature_extractor") or _section(nested, "audio_processor") or image
    if geometry.rule == "patches":
        geometry = replace(
            geometry,
            patch=_number(image, "patch_size", geometry.patch),
            merge=_number(image, "merge_size", geometry.merge),
            temporal=_number(image, "temporal_patch_size", geometry.temporal),
            image_pixels=_pixels(image, geometry.image_pixels),
            video_pixels=_pixels(video, geometry.video_pixels),
        )
    elif geometry.rule == "crops":
        geometry = replace(geometry, side=_side(image, geometry.side))
    return replace(
        geometry,
        mel_bins=_number(audio, "feature_size", geometry.mel_bins),
        mel_frames=_number(audio, "nb_max_frames", geometry.mel_frames),
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _section(settings: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = settings.get(key)
    return found if isinstance(found, dict) else {}


def _number(settings: Mapping[str, Any], key: str, default: int) -> int:
    found = settings.get(key)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else default


def _pixels(settings: Mapping[str, Any], default: tuple[int, int]) -> tuple[int, int]:
    size = _section(settings, "size")
    least = _number(settings, "min_pixels", _number(size, "shortest_edge", default[0]))
    most = _number(settings, "max_pixels", _number(size, "longest_edge", default[1]))
    return least, max(least, most)


def _side(settings: Mapping[str, Any], default: int) -> int:
    for key in ("crop_size", "size"):
        found = settings.get(key)
        if isinstance(found, dict):
            found = next((found[k] for k in ("height", "shortest_edge") if isinstance(found.get(k), int)), None)
        if isinstance(found, int) and not isinstance(found, bool) and found > 0:
            return found
    return default


def resized(width: int, height: int, least: int, most: int) -> tuple[int, int]:
    """Return the size that LLaMA-Factory itself scales an image or frame to, before the processor sees it."""
    if width * height > most:
        factor = math.sqrt(most / (width * height))
        width, height = max(1, int(width * factor)), max(1, int(height * factor))
    if width * height < least:
        factor = math.sqrt(least / (width * height))
        width, height = max(1, int(width * factor)), max(1, int(height * factor))
    return width, height


def snapped(width: int, height: int, step: int, least: int, most: int, frames: int = 1) -> tuple[int, int]:
    """Return the size a patch processor scales to: multiples of ``step`` with ``least`` to ``most`` pixels.

    Args:
        frames: Frames that share the limits (Qwen3-VL's video rule); 1 where each is judged alone.
    """
    wide, high = max(step, round(width / step) * step), max(step, round(height / step) * step)
    if frames * wide * high > most:
        shrink = math.sqrt(frames * width * height / most)
        wide = max(step, math.floor(width / shrink / step) * step)
        high = max(step, math.floor(height / shrink / step) * step)
    elif frames * wide * high < least:
        grow = math.sqrt(least / (frames * width * height))
        wide, high = math.ceil(width * grow / step) * step, math.ceil(height * grow / step) * step
    return wide, high


def sampled_frames(frames: int, duration_s: float, fps: float, most: int) -> int:
    """Return how many frames LLaMA-Factory samples of a video; ``frames`` 0 means that its header does not say."""
    if frames == 0:
        return most
    return min(frames, most, max(1, math.floor(duration_s * fps)))
