"""From rows that were looked at to rows that cost something.

Covers the costs of surveyed, assumed and packed rows, and the facts of a run that follow from them alone. One medium
and one batch are computed by `cost`; chance is the business of `batches`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lf_autoworkers.units import MIB

from .arguments import RunArguments
from .cost import BatchCost, RowCost, audio_cost, batch_cost, image_cost, text_cost, video_cost
from .facts import Modality
from .media import AudioHeader, ImageHeader, VideoHeader
from .processor import Geometry
from .survey import Survey, SurveyedRow

_ASSUMED_AUDIO_S = 30.0
_TEMPLATE_TOKENS = 32
"""Tokens that a chat template puts around a row: roles, separators, a short system prompt."""

_RAW_ROW_BYTES = 1024
_RAW_TOKEN_BYTES = 4
_LISTED_TOKEN_BYTES = 60
"""Three Python lists hold a tokenised row: one int object and three references a token, and their copy in Arrow."""

_TOKENIZE_S = 2e-6
"""A fast tokenizer in one thread, for each token."""


@dataclass(frozen=True, slots=True)
class CostedRows:
    """Rows of some datasets and what they cost.

    Attributes:
        costs: One for each row looked at, or assumed; never empty.
        weights: How many rows of the data each stands for; ``None`` where they are all the data.
    """

    costs: tuple[RowCost, ...]
    weights: tuple[float, ...] | None


def row_costs(
    surveys: Sequence[Survey], run: RunArguments, geometry: Geometry, able: frozenset[Modality]
) -> CostedRows:
    """Return the costs of the rows looked at, and of one assumed row for what could not be looked at.

    Args:
        surveys: What was seen of each dataset.
        run: Arguments of the run.
        geometry: Of the model's processor.
        able: Media the template takes; a dataset of unknown columns is assumed to bring the dearest of them.
    """
    costs: list[RowCost] = []
    weights: list[float] = []
    known = [found.total for found in surveys if found.total is not None]
    usual = (
        sum(known) / len(known) if known else 1.0
    )  # A dataset of unknown size is taken to be as large as the others.
    for found in surveys:
        rows = [_row_cost(row, run, geometry, tokenized=found.tokenized) for row in found.rows]
        unread = found.seen - {kind for row in found.rows for kind in _kinds(row)}
        if not found.rows or unread:
            kinds = able if found.kinds is None else unread or found.kinds
            rows.append(_row_cost(_assumed_row(kinds, run), run, geometry, tokenized=False))
        costs += rows
        weights += [(found.total if found.total is not None else usual) / len(rows)] * len(rows)
    if not sum(weights):
        return CostedRows((text_cost(run.cutoff_len),), (1.0,))
    whole = all(found.complete and found.rows and found.source.samples is None for found in surveys)
    return CostedRows(tuple(costs), None if whole else tuple(weights))


def as_modality(
    rows: CostedRows, surveys: Sequence[Survey], wanted: Modality, run: RunArguments, geometry: Geometry
) -> CostedRows:
    """Return the costs of rows that are to be taken for ``wanted``, whatever was seen in them.

    Rows that hold that kind of media cost what they cost; where none does, one as large as LLaMA-Factory lets it be is
    assumed. As text, only their tokens count.
    """
    if wanted is Modality.TEXT:
        texts = tuple(text_cost(min(run.cutoff_len, row.tokens)) for row in rows.costs)
        return CostedRows(texts, rows.weights)
    if any(wanted in _kinds(row) for found in surveys for row in found.rows):
        return rows
    return CostedRows((_row_cost(_assumed_row(frozenset({wanted}), run), run, geometry, tokenized=False),), (1.0,))


def _kinds(row: SurveyedRow) -> frozenset[Modality]:
    media = ((Modality.IMAGE, row.images), (Modality.VIDEO, row.videos), (Modality.AUDIO, row.audios))
    return frozenset(kind for kind, headers in media if headers)


def _assumed_row(kinds: frozenset[Modality], run: RunArguments) -> SurveyedRow:
    """Return a row of one medium, the dearest of ``kinds``, as large as LLaMA-Factory lets it be."""
    image, frame = math.isqrt(run.image_max_pixels), math.isqrt(run.video_max_pixels)
    if Modality.VIDEO in kinds:
        return SurveyedRow(videos=(VideoHeader(frame, frame, 0, 0.0),), text_tokens=run.cutoff_len)
    if Modality.IMAGE in kinds:
        return SurveyedRow(images=(ImageHeader(image, image),), text_tokens=run.cutoff_len)
    if Modality.AUDIO in kinds:
        return SurveyedRow(audios=(AudioHeader(_ASSUMED_AUDIO_S, 48000, 2),), text_tokens=run.cutoff_len)
    return SurveyedRow(text_tokens=run.cutoff_len)


def _row_cost(row: SurveyedRow, run: RunArguments, geometry: Geometry, *, tokenized: bool) -> RowCost:
    if run.stage == "pt":  # The pre-training collator knows no media.
        return text_cost(min(run.cutoff_len, row.text_tokens))
    media = RowCost()
    for image in row.images:
        media += image_cost(image, run, geometry)
    for video in row.videos:
        media += video_cost(video, run, geometry)
    for audio in row.audios:
        media += audio_cost(audio, run, geometry)
    if tokenized:
        return media.with_tokens(row.text_tokens)
    return media.with_tokens(min(run.cutoff_len, media.tokens + row.text_tokens + _TEMPLATE_TOKENS))


def packed(rows: CostedRows, run: RunArguments) -> CostedRows:
    """Return the sequences of ``cutoff_len`` tokens that ``rows`` are packed into, filled in the order given."""
    sequences, current = [], RowCost()
    for row in rows.costs:
        if current.tokens and current.tokens + row.tokens > run.cutoff_len:
            sequences.append(current)
            current = RowCost()
        current += row
    full = tuple(sequence.with_tokens(run.cutoff_len) for sequence in (*sequences, current))
    return CostedRows(full, None if rows.weights is None else (1.0,) * len(full))


def filler_image(run: RunArguments, geometry: Geometry) -> int:
    """Return the bytes of the blank 64 x 64 image that a VL template's batch without media is given."""
    if run.stage == "pt":
        return 0
    return batch_cost((image_cost(ImageHeader(64, 64), run, geometry),), run, geometry).batch_bytes


def streamed(batch: BatchCost, rows: CostedRows, run: RunArguments, batch_size: int, total: int | None) -> BatchCost:
    """Return the cost of ``batch`` where its rows come from a stream: each worker shuffles and tokenises them itself.

    A worker then keeps ``buffer_size`` raw rows and ``preprocessing_batch_size`` tokenised ones, and decodes media once
    more to count their tokens. Arithmetic from LLaMA-Factory's loader and CPython's object sizes; not measured.
    """
    weights = rows.weights or (1.0,) * len(rows.costs)
    tokens = sum(row.tokens * weight for row, weight in zip(rows.costs, weights, strict=True)) / sum(weights)
    buffered = run.buffer_size if total is None else min(run.buffer_size, total)
    raw_bytes = buffered * (_RAW_ROW_BYTES + tokens * _RAW_TOKEN_BYTES)
    kept_bytes = run.preprocessing_batch_size * tokens * _LISTED_TOKEN_BYTES
    return replace(
        batch,
        decode_bytes=batch.decode_bytes + int(raw_bytes + kept_bytes),
        cpu_s=2 * batch.cpu_s + batch_size * tokens * _TOKENIZE_S,
    )


def tensor_count(surveys: Sequence[Survey], run: RunArguments, geometry: Geometry, able: frozenset[Modality]) -> int:
    """Return the tensors of one batch: ids, mask, labels, positions, and two for each kind of media.

    Datasets of unknown columns count as the media that the template takes, and a VL template has an image in every
    batch.
    """
    if run.stage == "pt":
        return 3
    kinds = {kind for found in surveys for kind in (able if found.kinds is None else found.kinds)} & able
    if Modality.IMAGE in able and not kinds & {Modality.IMAGE, Modality.VIDEO}:
        kinds.add(Modality.IMAGE)
    kto = 4 if run.stage == "kto" else 0  # kl_input_ids, kl_attention_mask, kl_labels, kto_tags
    return 3 + 2 * len(kinds) + (2 if geometry.positions else 0) + kto


def preprocessing_row_bytes(
    surveys: Sequence[Survey],
    run: RunArguments,
    geometry: Geometry,
    able: frozenset[Modality],
    *,
    videos_by_header: bool,
) -> int:
    """Return the private memory that the largest row takes while it is tokenised, rounded up to a whole MiB.

    Media are decoded and processed one row at a time, tokens alone are kept. Only the rows that every rank of a node
    has seen count, since all ranks must come to the same number of processes.

    Args:
        surveys: What was seen of each dataset.
        run: Arguments of the run.
        geometry: Of the model's processor.
        able: Media the template takes.
        videos_by_header: Whether a video with a complete header is not decoded to tokenise its row.
    """

    def decoded(row: SurveyedRow) -> SurveyedRow:
        headless = [v for v in row.videos if not (videos_by_header and v.decoded and v.duration_s > 0)]
        return replace(row, videos=tuple(headless))

    firm = [replace(found, rows=tuple(decoded(row) for row in found.rows[: found.firm])) for found in surveys]
    rows = [_row_cost(row, run, geometry, tokenized=found.tokenized) for found in firm for row in found.rows]
    rows += [row for found in firm if not found.rows for row in row_costs((found,), run, geometry, able).costs]
    # A row is tokenised alone in every stage, before anything is packed or paired.
    alone = replace(run, stage="sft", neat_packing=False)
    costs = [batch_cost((row,), alone, geometry) for row in rows or [text_cost(run.cutoff_len)]]
    return math.ceil(max(cost.batch_bytes + cost.decode_bytes for cost in costs) / MIB) * MIB
