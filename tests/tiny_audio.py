"""Sound files and a Qwen2-Audio whose feature extractor is the real one, made without a download.

Covers what is synthetic; `real_batches` runs LLaMA-Factory on it. Pictures and videos are `tiny_vl`'s.
"""

from __future__ import annotations

import random
import wave
from pathlib import Path

from lf_autoworkers.demo import CHAT_TEMPLATE, TINY, build_tokenizer

AUDIO_TOKENS = ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")


def write_sound(path: Path, seconds: float, rate: int, channels: int) -> None:
    """Write ``seconds`` of 16-bit noise at ``rate`` samples per second as a WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(random.Random(int(seconds * 1000)).randbytes(2 * channels * int(seconds * rate)))


def build_model(folder: Path) -> None:
    """Write a Qwen2-Audio of one layer each with random weights and its processor, whose mel features are real."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(folder)
    tokenizer.add_tokens(list(AUDIO_TOKENS), special_tokens=True)
    extractor = transformers.WhisperFeatureExtractor(feature_size=128)
    sound = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
    config = transformers.Qwen2AudioConfig(
        audio_config={**sound, "num_mel_bins": 128},
        text_config={
            **TINY,
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "eos_token_id": tokenizer.eos_token_id,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids(AUDIO_TOKENS[0]),
    )
    torch.manual_seed(7)
    transformers.Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    transformers.Qwen2AudioProcessor(extractor, tokenizer, chat_template=CHAT_TEMPLATE).save_pretrained(folder)
