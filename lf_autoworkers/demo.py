"""``lf-autoworkers demo``: the whole thing on this machine, offline, in about a minute.

Covers a tiny Qwen2.5-VL (the real architecture with random weights, a tokenizer trained on the spot), a few pictures,
a config that says ``auto`` twice, and the unchanged ``llamafactory-cli train`` on it. The builders also serve the
tests. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lf_autoworkers.errors import AutoWorkersError

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISION = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
CHAT_TEMPLATE = (
    "{% for turn in messages %}{{ '<|im_start|>' + turn.role + '\n' + turn.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_VOCABULARY = (
    "a an the on under beside cat dog boat lamp tree field river mountain window table paints holds sees carries "
    "bright dark quiet round narrow early late slowly again never one two three several"
).split()
TINY = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16384,
}


def words(rng: random.Random, low: int, high: int) -> str:
    """Return a line of ``low`` to ``high`` random words."""
    return " ".join(rng.choices(_VOCABULARY, k=rng.randint(low, high)))


def build_tokenizer(folder: Path) -> Any:
    """Train a byte-level BPE tokenizer with Qwen's special tokens, save it to ``folder`` and return it."""
    import transformers
    from tokenizers import ByteLevelBPETokenizer

    rng = random.Random(7)
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        [words(rng, 4, 30) for _ in range(300)], vocab_size=500, special_tokens=[*SPECIAL, *VISION], show_progress=False
    )
    # The processor of transformers 4 takes Qwen2's own class alone; 5 takes any.
    four = transformers.__version__.startswith("4.")
    tokenizer = getattr(transformers, "Qwen2TokenizerFast" if four else "PreTrainedTokenizerFast")(
        tokenizer_object=trained._tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", *VISION],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_text_model(folder: Path) -> None:
    """Save a two-layer Qwen2 with random weights and its tokenizer to ``folder``."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = build_tokenizer(folder)
    torch.manual_seed(7)
    Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **TINY
        )
    ).save_pretrained(folder)


def build_vision_model(folder: Path) -> None:
    """Save a two-layer Qwen2.5-VL with random weights, its tokenizer and its processor to ``folder``."""
    import torch
    import transformers
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = build_tokenizer(folder)
    token = tokenizer.convert_tokens_to_ids
    patches = {"patch_size": 14, "temporal_patch_size": 2}
    text = {
        **TINY,
        "vocab_size": len(tokenizer),
        "rope_scaling": {"rope_type": "default", "type": "mrope", "mrope_section": [2, 2, 2]},
        "bos_token_id": token("<|im_start|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        **patches,
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": TINY["hidden_size"],
        "spatial_merge_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        # transformers 4.52 computes the loss with the outer config's; 5 keeps it in text_config alone.
        **({"vocab_size": len(tokenizer)} if transformers.__version__.startswith("4.") else {}),
    )
    torch.manual_seed(7)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(merge_size=2, **patches),
        video_processor=Qwen2VLVideoProcessor(merge_size=2, **patches),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


def write_picture(path: Path, width: int, height: int, seed: int) -> None:
    """Write a JPEG of ``width`` x ``height`` pixels that costs a decoder what a photograph does."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    grid = rng.integers(0, 255, (height // 40 + 2, width // 40 + 2, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR)).astype(np.int16)
    grain = rng.normal(0, 12, picture.shape).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(picture + grain, 0, 255).astype(np.uint8)).save(path, quality=90)


def conversation(question: str, answer: str, **media: list[str]) -> dict[str, Any]:
    """Return one row in the OpenAI-style layout that `SHAREGPT_TAGS` describe."""
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **media}


SHAREGPT_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


def write_image_dataset(folder: Path, rows: int, sizes: tuple[tuple[int, int], ...], seed: int = 7) -> dict[str, Any]:
    """Write ``rows`` rows with one picture each below ``folder`` and return the entry for ``dataset_info.json``."""
    rng = random.Random(seed)
    written = []
    for row in range(rows):
        name = f"pictures/{row:04d}.jpg"
        write_picture(folder / name, *rng.choice(sizes), seed=row)
        written.append(conversation("<image>" + words(rng, 4, 10), words(rng, 6, 24), images=[name]))
    (folder / "image.json").write_text(json.dumps(written), encoding="utf-8")
    columns = {"messages": "messages", "images": "images"}
    return {"file_name": "image.json", "formatting": "sharegpt", "columns": columns, "tags": SHAREGPT_TAGS}


def write_config(path: Path, values: dict[str, Any]) -> None:
    """Write ``values`` as a YAML config."""
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()), encoding="utf-8")


def run_demo(folder: Path) -> int:
    """Build everything in ``folder``, train, and return ``llamafactory-cli``'s exit code.

    Raises:
        AutoWorkersError: LLaMA-Factory is not installed here, or ``folder`` holds something else.
    """
    if find_spec("llamafactory") is None:
        raise AutoWorkersError(
            'LLaMA-Factory is not installed here; run, in a clone of lf-autoworkers: pip install ".[llamafactory]"'
        )
    if folder.exists() and any(folder.iterdir()) and not (folder / "demo.yaml").exists():
        raise AutoWorkersError(f"{folder} holds other files; name a new folder with --out.")
    program = shutil.which(
        "llamafactory-cli", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if program is None:
        raise AutoWorkersError("llamafactory-cli is not on PATH; activate the environment it is installed in.")
    print(f"building a tiny Qwen2.5-VL and 32 pictures in {folder} ...", flush=True)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    build_vision_model(folder / "model")
    info = {"pictures": write_image_dataset(folder / "data", 32, ((960, 720), (1280, 960)))}
    (folder / "data" / "dataset_info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")
    config = {
        "model_name_or_path": str(folder / "model"),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "dataset": "pictures",
        "dataset_dir": str(folder / "data"),
        "media_dir": str(folder / "data"),
        "template": "qwen2_vl",
        "image_max_pixels": 147456,
        "cutoff_len": 2048,
        "output_dir": str(folder / "output"),
        "overwrite_output_dir": True,
        "overwrite_cache": True,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "max_steps": 8,
        "logging_steps": 2,
        "report_to": "none",
        "preprocessing_num_workers": "auto",
        "dataloader_num_workers": "auto",
    }
    write_config(folder / "demo.yaml", config)
    command = [program, "train", str(folder / "demo.yaml")]
    print("\n$ " + " ".join(command), flush=True)
    hidden = {"CUDA_VISIBLE_DEVICES": ""}  # 32 pictures on the CPU; several GPUs would each get a process
    environ = {**os.environ, **hidden, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    decisions: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ
    ) as training:
        assert training.stdout is not None
        for line in training.stdout:
            print(line, end="", flush=True)
            if "_num_workers: auto -> " in line:
                decisions.append(line.partition(">> ")[2].strip() or line.strip())
    if training.returncode != 0:
        print(f"\nllamafactory-cli ended with exit code {training.returncode}; the reason is in the log above.")
        return training.returncode
    print("\nWhat auto decided here:")
    print(
        "\n".join(f"  {line}" for line in decisions) or "  nothing: the hook is not active, see lf-autoworkers doctor"
    )
    print(f"The model and the training log lie in {folder / 'output'}, the config is {folder / 'demo.yaml'}.")
    print(f"The same without training:  lf-autoworkers explain {folder / 'demo.yaml'}")
    return 0 if decisions else 1
