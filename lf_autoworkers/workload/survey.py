"""What a sample of the rows really holds: sizes of their media and lengths of their text.

Covers reading rows of the datasets found by `dataset` and the headers of their media, within a time limit. What they
cost is told by `cost`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .dataset import DatasetSource
from .facts import Modality
from .media import AudioHeader, ImageHeader, VideoHeader, audio_header, image_header, video_header
from .rows import RowSample, read_rows

FIRST_ROWS = 64
"""Rows of each dataset that are looked at whatever it takes, so that every rank sees the same."""

MOST_ROWS = 2048
"""Rows of each dataset that are looked at while time allows."""

BUDGET_S = 0.3
"""Seconds for the headers beyond ``FIRST_ROWS``."""

_HARD_LIMIT_S = 2.0

_Header = TypeVar("_Header", ImageHeader, VideoHeader, AudioHeader)


@dataclass(frozen=True, slots=True)
class SurveyedRow:
    """One row: headers of its media, and the size of its text.

    Attributes:
        images: Its images.
        videos: Its videos.
        audios: Its audio clips.
        text_tokens: Tokens of its text; guessed from its length unless the data is tokenised already.
    """

    images: tuple[ImageHeader, ...] = ()
    videos: tuple[VideoHeader, ...] = ()
    audios: tuple[AudioHeader, ...] = ()
    text_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """What was seen of some datasets.

    Attributes:
        rows: The rows looked at; the first ``firm`` of them depend on the data alone, not on the time it took.
        firm: How many rows any process on this machine sees.
        total: Rows of all datasets together, ``num_samples`` and ``max_samples`` applied; ``None`` where unknown.
        exact: Whether ``total`` was counted.
        seen: Kinds of media that the rows looked at name.
        unseen: Kinds of media that no row names although all rows were read.
        unread: Datasets of which no row could be looked at.
        tokenized: Whether ``text_tokens`` are counts that include the media's tokens.
        notes: One sentence for each thing that could not be read.
    """

    rows: tuple[SurveyedRow, ...] = ()
    firm: int = 0
    total: int | None = 0
    exact: bool = True
    seen: frozenset[Modality] = frozenset()
    unseen: frozenset[Modality] = frozenset()
    unread: tuple[DatasetSource, ...] = ()
    tokenized: bool = False
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Tally:
    firm: list[SurveyedRow] = field(default_factory=list)
    more: list[SurveyedRow] = field(default_factory=list)
    seen: set[Modality] = field(default_factory=set)
    broken: dict[Modality, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def survey(
    sources: Sequence[DatasetSource],
    media_dir: Path,
    max_samples: int | None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Survey:
    """Return what a sample of the rows of ``sources`` holds.

    Args:
        sources: Datasets as `dataset.find_datasets` or `dataset.tokenized_dataset` give them.
        media_dir: Folder that media paths are relative to.
        max_samples: Rows LLaMA-Factory takes of each dataset; ``None`` for all.
        clock: Seconds from any start; tests inject their own.
    """
    start, tally = clock(), _Tally()
    totals: list[int | None] = []
    exact, complete, tokenized = True, True, False
    unread: list[DatasetSource] = []
    for source in sources:
        if source.note is not None:
            tally.notes.append(source.note)
        sample = _read(source, tally)
        if sample is None or not sample.rows:
            unread.append(source)
        total = None if sample is None else _taken(source, sample.total, max_samples)
        totals.append(total)
        exact = exact and sample is not None and sample.exact and not source.sliced
        if sample is not None:
            complete = complete and sample.complete and len(sample.rows) <= MOST_ROWS
            tokenized = tokenized or any(isinstance(row.get("input_ids"), int) for row in sample.rows[:1])
            complete &= _look(source, sample.rows, media_dir, tally, start, clock)
    known = [total for total in totals if total is not None]
    declared = {kind for source in sources for kind in source.columns or ()}
    for kind, count in tally.broken.items():
        tally.notes.append(f"{count} {kind.value} files of the rows looked at are missing or cannot be read.")
    return Survey(
        rows=(*tally.firm, *tally.more),
        firm=len(tally.firm),
        total=sum(known) if len(known) == len(totals) else None,
        exact=exact,
        seen=frozenset(tally.seen),
        unseen=frozenset(declared - tally.seen) if complete and not unread else frozenset(),
        unread=tuple(unread),
        tokenized=tokenized,
        notes=tuple(tally.notes),
    )


def _read(source: DatasetSource, tally: _Tally) -> RowSample | None:
    """Return the rows of all files of ``source`` as one sample; ``None`` where it has none that can be read."""
    rows: list[dict[str, Any]] = []
    total: int | None = 0
    exact = True
    for file in source.files:
        try:
            sample = read_rows(file, MOST_ROWS)
        except (OSError, ValueError, ImportError) as error:
            tally.notes.append(f"Dataset {source.name}: {file} cannot be read ({error}).")
            return None
        rows += sample.rows
        total = None if total is None or sample.total is None else total + sample.total
        exact = exact and sample.exact
    return RowSample(tuple(rows), total, exact) if source.files else None


def _taken(source: DatasetSource, total: int | None, max_samples: int | None) -> int | None:
    if source.samples is not None:
        total = source.samples
    if total is not None and max_samples is not None:
        total = min(total, max_samples)
    return total


def _look(
    source: DatasetSource,
    rows: Sequence[Mapping[str, Any]],
    media_dir: Path,
    tally: _Tally,
    start: float,
    clock: Callable[[], float],
) -> bool:
    """Look at rows of one dataset, evenly spread ones first; return whether all were looked at."""
    looked = 0
    for index in _spread(len(rows)):
        elapsed = clock() - start
        if elapsed > _HARD_LIMIT_S or (looked >= FIRST_ROWS and elapsed > BUDGET_S):
            break
        row = _row(source, rows[index], media_dir, tally)
        if row is not None:
            (tally.firm if looked < FIRST_ROWS else tally.more).append(row)
        looked += 1
    return looked == len(rows)


def _spread(count: int) -> Iterator[int]:
    """Yield up to ``MOST_ROWS`` indices below ``count``: ``FIRST_ROWS`` evenly spread ones, then those between."""
    first = dict.fromkeys(i * count // FIRST_ROWS for i in range(FIRST_ROWS)) if count else {}
    rest = dict.fromkeys(i * count // MOST_ROWS for i in range(MOST_ROWS)) if count else {}
    yield from (dict(first) | dict(rest)).keys()


def _row(source: DatasetSource, row: Mapping[str, Any], media_dir: Path, tally: _Tally) -> SurveyedRow | None:
    """Return one row; ``None`` where a medium of it cannot be read, so that it is not taken for a smaller one."""
    columns = source.columns or {}
    images = _headers(Modality.IMAGE, image_header, row.get(columns.get(Modality.IMAGE, "")), media_dir, tally)
    videos = _headers(Modality.VIDEO, video_header, row.get(columns.get(Modality.VIDEO, "")), media_dir, tally)
    audios = _headers(Modality.AUDIO, audio_header, row.get(columns.get(Modality.AUDIO, "")), media_dir, tally)
    if images is None or videos is None or audios is None:
        return None
    if isinstance(row.get("input_ids"), int):
        return SurveyedRow(images, videos, audios, row["input_ids"])
    media = set(columns.values())
    text = sum(_text_tokens(value) for key, value in row.items() if key not in media)
    return SurveyedRow(images, videos, audios, text)


def _headers(
    kind: Modality, read: Callable[[Any, Path], _Header | None], media: Any, media_dir: Path, tally: _Tally
) -> tuple[_Header, ...] | None:
    items = media if isinstance(media, list) else [] if media is None or media == "" else [media]
    if not items:
        return ()
    tally.seen.add(kind)
    headers = tuple(header for item in items if (header := read(item, media_dir)) is not None)
    if len(headers) < len(items):
        tally.broken[kind] = tally.broken.get(kind, 0) + len(items) - len(headers)
        return None
    return headers


def _text_tokens(value: Any) -> int:
    """Return a cautious guess at the tokens of ``value``: one for three ASCII characters, or for one of any other."""
    if isinstance(value, str):
        plain = len(value.encode("ascii", errors="ignore"))
        return plain // 3 + 1 + len(value) - plain
    if isinstance(value, Mapping):
        return sum(_text_tokens(item) for item in value.values())
    if isinstance(value, list):
        return sum(_text_tokens(item) for item in value)
    return 0
