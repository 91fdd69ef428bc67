"""A tiny Qwen2.5-VL (real classes, random weights, tokenizer trained on the spot) and media to feed it, all offline.

Covers what the tests and benchmarks of real collated batches need. Nothing is downloaded; everything comes from a seed.
"""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
PADS = ("<|image_pad|>", "<|video_pad|>")
WORDS = ("a", "small", "red", "circle", "moves", "slowly", "over", "the", "large", "green", "square", "while", "light")


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def build_model(folder: Path) -> None:
    """Save a Qwen2.5-VL of two layers with its tokenizer and processor to ``folder``."""
    import torch

    # Untyped, or typed too narrowly for what their own constructors accept.
    tokenizers: Any = importlib.import_module("tokenizers")
    transformers: Any = importlib.import_module("transformers")

    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    rng = random.Random(0)
    core.train_from_iterator(
        (sentence(rng, 20) for _ in range(200)),
        tokenizers.trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=[*SPECIAL, *PADS],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=32768
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [*SPECIAL[1:2], *SPECIAL[3:], *PADS]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (*SPECIAL, *PADS)}
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [2, 3, 3]},
            "bos_token_id": ids["<|im_start|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [0],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(0)
    transformers.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=28 * 28 * 16384),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(min_pixels=56 * 56, max_pixels=28 * 28 * 16384),
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)


def write_image(path: Path, size: tuple[int, int], seed: int = 0) -> None:
    """Write a JPEG with photo-like structure: a blown-up coarse pattern with noise on it."""
    import numpy as np
    from PIL import Image

    width, height = size
    noise = np.random.default_rng(seed)
    coarse = noise.integers(0, 256, (max(2, height // 32), max(2, width // 32), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
    grain = noise.integers(-20, 21, (height, width, 1), dtype=np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path, quality=88)


def write_video(path: Path, size: tuple[int, int], seconds: float, fps: int = 24, seed: int = 0) -> None:
    """Write a video of a noisy picture that slides by one pixel a frame."""
    import av
    import numpy as np

    width, height = size
    frames = round(seconds * fps)
    noise = np.random.default_rng(seed)
    canvas = noise.integers(0, 256, (height // 16 + 1, (width + frames) // 16 + 1, 3), dtype=np.uint8)
    canvas = canvas.repeat(16, axis=0).repeat(16, axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for shift in range(frames):
            picture = np.ascontiguousarray(canvas[:height, shift : shift + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def chat_row(question: str, answer: str, **media: Sequence[Any]) -> dict[str, Any]:
    """Return a row as LLaMA-Factory's ``sharegpt`` format has it; one placeholder for each medium is put in front."""
    marks = "".join(f"<{kind[:-1]}>" * len(files) for kind, files in media.items())
    messages = [{"role": "user", "content": marks + question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **{kind: list(files) for kind, files in media.items()}}


def preference_row(question: str, answers: tuple[str, str], **media: Sequence[Any]) -> dict[str, Any]:
    """Return a row for DPO: a question with a chosen and a rejected answer."""
    chosen, rejected = ({"role": "assistant", "content": answer} for answer in answers)
    question_only = chat_row(question, "", **media)["messages"][:1]
    return {"messages": question_only, "chosen": chosen, "rejected": rejected, **media}


def write_dataset(folder: Path, datasets: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write each list of rows as ``NAME.json``, with a ``dataset_info.json`` that declares the columns it has."""
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    known = ("messages", "images", "videos", "audios", "chosen", "rejected", "kto_tag")
    table: dict[str, Any] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in datasets.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
        columns = {key: key for key in known if any(key in row for row in rows)}
        entry = {"file_name": f"{name}.json", "formatting": "sharegpt", "columns": columns, "tags": tags}
        table[name] = entry | ({"ranking": True} if "chosen" in columns else {})
    (folder / "dataset_info.json").write_text(json.dumps(table), encoding="utf-8")
