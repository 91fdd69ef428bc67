"""The keys of a training config that shape a batch, read leniently and with LLaMA-Factory's defaults.

Covers types only (``"2"``, ``2.0`` and ``"true"`` as YAML or the command line may hold them). What the values mean for
a batch is told by `cost`; which datasets they name by `dataset`. A value that makes no sense becomes the default and
one note: refusing it is LLaMA-Factory's own business, a moment later and in its own words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TRUE = frozenset({"1", "true", "yes", "y", "t", "on"})
_FALSE = frozenset({"0", "false", "no", "n", "f", "off"})

_MOST = 2.0**40
_MOST_ROWS = 4096


@dataclass(frozen=True, slots=True)
class RunArguments:
    """The part of a training config that the data path depends on.

    Attributes:
        stage: ``sft``, ``pt``, ``rm``, ``dpo``, ``kto`` or ``ppo``.
        datasets: Names of the training datasets.
        eval_datasets: Names of the evaluation datasets.
        dataset_dir: A folder, ``ONLINE``, ``REMOTE:repo``, or the dataset table itself (Python API).
        media_dir: Folder of the media; ``None`` means ``dataset_dir``.
        tokenized_path: Folder of a dataset tokenised earlier; ``None`` where there is none.
        template: Name of the chat template; ``None`` where it is left to the tokenizer.
        model: Folder or hub name of the model.
        streaming: Whether datasets are iterated as streams.
        max_samples: Rows taken of each dataset.
        val_size: Rows (above 1) or share (below 1) split off for evaluation.
        interleaved: Whether datasets are mixed by a strategy that repeats or drops rows.
        packing: Whether rows are packed into sequences of ``cutoff_len``.
        neat_packing: Whether packed rows are kept apart by a block-diagonal attention mask.
        flash_attention: Whether ``flash_attn: fa2`` is set, which needs no such mask.
        cutoff_len: Longest token sequence.
        buffer_size: Rows a stream shuffles at a time.
        preprocessing_batch_size: Rows tokenised at a time.
        train_batch_size: Rows of a training batch of one rank.
        eval_batch_size: Rows of an evaluation batch of one rank.
        epochs: Passes over the training data; LLaMA-Factory's default is 3.
        max_steps: Optimizer steps that end the run; ``None`` where epochs decide.
        accumulation: Batches of one optimizer step.
        evaluates: Whether any evaluation or prediction is asked for.
        float_bytes: Bytes of one floating point number in an SFT batch (the collator casts to the compute dtype).
        image_max_pixels: Above this an image is shrunk by LLaMA-Factory.
        image_min_pixels: Below this it is enlarged.
        video_max_pixels: The same for one video frame.
        video_min_pixels: The same for one video frame.
        video_fps: Frames sampled per second of video.
        video_maxlen: Most frames sampled of one video.
        audio_sampling_rate: Samples per second that audio is resampled to.
        notes: One sentence for each value that could not be used.
    """

    stage: str
    datasets: tuple[str, ...]
    eval_datasets: tuple[str, ...]
    dataset_dir: str | Mapping[str, Any]
    media_dir: str | None
    tokenized_path: str | None
    template: str | None
    model: str | None
    streaming: bool
    max_samples: int | None
    val_size: float
    interleaved: bool
    packing: bool
    neat_packing: bool
    flash_attention: bool
    cutoff_len: int
    buffer_size: int
    preprocessing_batch_size: int
    train_batch_size: int
    eval_batch_size: int
    epochs: float
    max_steps: int | None
    accumulation: int
    evaluates: bool
    float_bytes: int
    image_max_pixels: int
    image_min_pixels: int
    video_max_pixels: int
    video_min_pixels: int
    video_fps: float
    video_maxlen: int
    audio_sampling_rate: int
    notes: tuple[str, ...]


class _Reader:
    """Reads single values out of a raw config and collects a note for each that had to be replaced."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw
        self.notes: list[str] = []

    def number(self, key: str, default: float, *, least: float, most: float = _MOST) -> float:
        value = self._raw.get(key)
        if value is None or value == "":
            return default
        try:
            number = float(str(value).strip().replace("_", ""))
        except ValueError:
            number = math.nan
        if not least <= number <= most or isinstance(value, bool):
            self.notes.append(f"{key}: {value!r} is not a number from {least:g} to {most:g}; assumed {default:g}.")
            return default
        return number

    def count(self, key: str, default: int, *, least: int = 1, most: float = _MOST) -> int:
        return int(self.number(key, default, least=least, most=most))

    def limit(self, key: str) -> int | None:
        return self.count(key, 0, least=0) or None

    def flag(self, key: str) -> bool | None:
        value = self._raw.get(key)
        if value is None or isinstance(value, bool):
            return value
        word = str(value).strip().lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        if word not in {"", "none", "null"}:
            self.notes.append(f"{key}: {value!r} is neither true nor false; ignored.")
        return None

    def text(self, key: str) -> str | None:
        value = self._raw.get(key)
        return None if value is None or not str(value).strip() else str(value).strip()

    def names(self, key: str) -> tuple[str, ...]:
        value = self._raw.get(key)
        parts = value.split(",") if isinstance(value, str) else value
        if parts is None:
            return ()
        if not isinstance(parts, list | tuple):
            self.notes.append(f"{key}: {value!r} is not a list of names; ignored.")
            return ()
        return tuple(name for part in parts if (name := str(part).strip()))


def _evaluates(read: _Reader) -> bool:
    # An evaluation set alone starts no evaluation: transformers asks for a strategy or for do_eval/do_predict.
    strategies = (read.text("eval_strategy"), read.text("evaluation_strategy"))
    if any(s is not None and s.lower() not in {"no", "false", "none"} for s in strategies):
        return True
    return any(read.flag(key) for key in ("do_eval", "do_predict", "predict_with_generate", "eval_on_start"))


def read_arguments(raw: Mapping[str, Any]) -> RunArguments:
    """Return what ``raw`` says about the data path, with LLaMA-Factory's defaults for what it leaves out.

    Args:
        raw: The config as written: a YAML mapping, or ``{name: text}`` from the command line.
    """
    read = _Reader(raw)
    stage = (read.text("stage") or "sft").lower()
    neat = read.flag("neat_packing") or False
    packing = read.flag("packing")
    table = raw.get("dataset_dir")
    image_max, video_max = read.count("image_max_pixels", 768 * 768), read.count("video_max_pixels", 256 * 256)
    half = any(read.flag(key) for key in ("bf16", "fp16", "pure_bf16"))
    max_steps = read.count("max_steps", -1, least=-1)
    return RunArguments(
        stage=stage,
        datasets=read.names("dataset"),
        eval_datasets=read.names("eval_dataset"),
        dataset_dir=table if isinstance(table, Mapping) else read.text("dataset_dir") or "data",
        media_dir=read.text("media_dir"),
        tokenized_path=read.text("tokenized_path"),
        template=read.text("template"),
        model=read.text("model_name_or_path"),
        streaming=read.flag("streaming") or False,
        max_samples=read.limit("max_samples"),
        val_size=read.number("val_size", 0.0, least=0.0),
        interleaved=(read.text("mix_strategy") or "concat").startswith("interleave"),
        packing=stage in {"sft", "pt"} and (neat or (stage == "pt" if packing is None else packing)),
        neat_packing=neat,
        flash_attention=(read.text("flash_attn") or "").lower() in {"fa2", "fa3"},
        cutoff_len=read.count("cutoff_len", 2048),
        buffer_size=read.count("buffer_size", 16384),
        preprocessing_batch_size=read.count("preprocessing_batch_size", 1000),
        train_batch_size=read.count("per_device_train_batch_size", 8, most=_MOST_ROWS),
        eval_batch_size=read.count("per_device_eval_batch_size", 8, most=_MOST_ROWS),
        epochs=read.number("num_train_epochs", 3.0, least=0.0),
        max_steps=max_steps if max_steps > 0 else None,
        accumulation=read.count("gradient_accumulation_steps", 1),
        evaluates=_evaluates(read),
        float_bytes=2 if half and stage == "sft" else 4,
        image_max_pixels=image_max,
        image_min_pixels=min(image_max, read.count("image_min_pixels", 32 * 32)),
        video_max_pixels=video_max,
        video_min_pixels=min(video_max, read.count("video_min_pixels", 16 * 16)),
        video_fps=read.number("video_fps", 2.0, least=0.0),
        video_maxlen=read.count("video_maxlen", 128),
        audio_sampling_rate=read.count("audio_sampling_rate", 16000),
        notes=tuple(read.notes),
    )
