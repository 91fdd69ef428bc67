"""What one batch of this training run is made of, as frozen facts.

Covers the shape of the facts. `dataset`, `rows`, `media` and `survey` find them, `cost` turns them into bytes and
seconds, `describe` puts them together. What could not be found is ``None``, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Modality(StrEnum):
    """What the data collator has to decode, from the cheapest to the dearest."""

    TEXT = "text"
    AUDIO = "audio"
    IMAGE = "image"
    VIDEO = "video"


@dataclass(frozen=True, slots=True)
class Workload:
    """One training run as its data loader sees it.

    Attributes:
        stage: LLaMA-Factory's ``stage``: ``sft``, ``pt``, ``rm``, ``dpo``, ``kto``, ``ppo``.
        modality: The dearest kind of media any train or eval dataset can bring.
        modality_source: One phrase: the dataset and column, the template, or why it was assumed.
        streaming: Whether the dataset is iterated as a stream.
        train_rows: Rows of all training datasets together; ``None`` where unknown.
        train_rows_exact: Whether they were counted (else estimated from file sizes).
        rows_source: The files counted, or why there is no number.
        train_batch_size: Rows of one training batch (``per_device_train_batch_size``), in the collator's sense.
        eval_batch_size: Rows of one evaluation batch.
        evaluates: Whether an evaluation loader lives beside the training loader.
        batch_bytes: Bytes of the largest batch the collator is expected to return, all tensors together.
        batch_source: One phrase: what it was computed from (``64 headers read of 400, largest 2.1 MP``).
        decode_bytes: Private memory a worker needs beside the batch while it makes one (decoded frames, resized
            copies), in bytes.
        batch_cpu_s: CPU seconds to make one batch, from the cost model; the run measures it anew.
        files_per_batch: Tensors of one batch, each of which is a file descriptor on its way to the trainer.
        preprocessing_row_bytes: Private memory of one row while it is tokenised (its decoded media included), bytes.
        checkpoint_bytes: Size of the model's weight files on disk; ``None`` where the model is not a local folder.
        largest_shard_bytes: The largest one of those files; ``None`` likewise.
        trains_all_weights: Whether every weight has a gradient and optimizer state (full fine-tuning).
        offloads_optimizer: Whether DeepSpeed keeps optimizer state in host memory.
        notes: One sentence for each thing assumed that a user may want to know.
        eval_batch_bytes: Bytes of the largest evaluation batch; ``None`` where nothing is evaluated.
    """

    stage: str
    modality: Modality
    modality_source: str
    streaming: bool
    train_rows: int | None
    train_rows_exact: bool
    rows_source: str
    train_batch_size: int
    eval_batch_size: int
    evaluates: bool
    batch_bytes: int
    batch_source: str
    decode_bytes: int
    batch_cpu_s: float
    files_per_batch: int
    preprocessing_row_bytes: int
    checkpoint_bytes: int | None = None
    largest_shard_bytes: int | None = None
    trains_all_weights: bool = False
    offloads_optimizer: bool = False
    notes: tuple[str, ...] = ()
    eval_batch_bytes: int | None = None
