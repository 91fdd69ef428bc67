"""From rows that were looked at to rows that cost something.

Covers the costs of surveyed, assumed and packed rows, and the facts of a run that follow from them alone. One medium
and one batch are computed by `cost`; chance is the business of `batches`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lf_autoworkers.units import MIB

from .arguments import RunArguments
from .cost import RowCost, audio_cost, batch_cost, image_cost, text_cost, video_cost
from .dataset import DatasetSource
from .facts import Modality
from .media import AudioHeader, ImageHeader, VideoHeader
from .processor import Geometry
from .survey import Survey, SurveyedRow

_ASSUMED_AUDIO_S = 30.0


def row_costs(found: Survey, run: RunArguments, geometry: Geometry, able: frozenset[Modality]) -> list[RowCost]:
    """Return the costs of the rows looked at, and of one assumed row for what could not be looked at.

    Args:
        found: What was seen of the datasets.
        run: Arguments of the run.
        geometry: Of the model's processor.
        able: Media the template takes; a dataset of unknown columns is assumed to bring the dearest of them.
    """
    rows = [_row_cost(row, run, geometry, tokenized=found.tokenized) for row in found.rows]
    assumed = [frozenset(source.columns) if source.columns is not None else able for source in found.unread]
    unreadable = found.seen - {kind for row in found.rows for kind in _kinds(row)}
    if unreadable:
        assumed.append(unreadable)
    rows += [_row_cost(_assumed_row(kinds, run), run, geometry, tokenized=False) for kinds in assumed]
    return rows or [text_cost(run.cutoff_len)]


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
    return media.with_tokens(min(run.cutoff_len, media.tokens + row.text_tokens))


def packed(rows: Sequence[RowCost], run: RunArguments) -> list[RowCost]:
    """Return the sequences of ``cutoff_len`` tokens that ``rows`` are packed into, filled in the order given."""
    sequences, current = [], RowCost()
    for row in rows:
        if current.tokens and current.tokens + row.tokens > run.cutoff_len:
            sequences.append(current)
            current = RowCost()
        current += row
    return [sequence.with_tokens(run.cutoff_len) for sequence in (*sequences, current)]


def filler_image(run: RunArguments, geometry: Geometry) -> int:
    """Return the bytes of the blank 64 x 64 image that a VL template's batch without media is given."""
    if run.stage == "pt":
        return 0
    return batch_cost((image_cost(ImageHeader(64, 64), run, geometry),), run, geometry).batch_bytes


def tensor_count(
    run: RunArguments, sources: Sequence[DatasetSource], able: frozenset[Modality], geometry: Geometry
) -> int:
    """Return the tensors of one batch: ids, mask, labels, positions, and two for each kind of media.

    ``sources`` of unknown columns, and a VL template (blank image for a batch without any), count as the media that
    the template takes.
    """
    if run.stage == "pt":
        return 3
    kinds = {kind for source in sources for kind in (able if source.columns is None else source.columns)} & able
    if Modality.IMAGE in able and not kinds & {Modality.IMAGE, Modality.VIDEO}:
        kinds.add(Modality.IMAGE)
    kto = 4 if run.stage == "kto" else 0  # kl_input_ids, kl_attention_mask, kl_labels, kto_tags
    return 3 + 2 * len(kinds) + (2 if geometry.positions else 0) + kto


def preprocessing_row_bytes(found: Survey, run: RunArguments, geometry: Geometry, able: frozenset[Modality]) -> int:
    """Return the private memory that the largest row takes while it is tokenised, rounded up to a whole MiB.

    Media are decoded and processed one row at a time, tokens alone are kept. Only the rows that every rank of a node
    has seen count, since all ranks must come to the same number of processes.
    """
    firm = Survey(found.rows[: found.firm], found.firm, seen=found.seen, unread=found.unread, tokenized=found.tokenized)
    costs = [batch_cost((row,), run, geometry) for row in row_costs(firm, run, geometry, able)]
    return math.ceil(max(cost.batch_bytes + cost.decode_bytes for cost in costs) / MIB) * MIB
