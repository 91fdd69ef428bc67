"""What a sample of the rows really holds: sizes of their media and lengths of their text.

Covers reading rows of the datasets found by `dataset` and the headers of their media, within limits of bytes and time.
What they cost is told by `cost`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lf_autoworkers.units import MIB

from .dataset import DatasetSource
from .facts import Modality
from .media import AudioHeader, ImageHeader, VideoHeader, audio_header, image_header, video_header
from .rows import RowSample, read_rows

FIRST_ROWS = 64
"""Rows of each dataset that are looked at whatever it takes, so that every rank sees the same."""

MOST_ROWS = 2048
"""Rows of each dataset that are looked at while time allows."""

BUDGET_S = 0.3
"""Seconds for the headers of all rows beyond the first ones."""

WHOLE_BYTES = 24 * MIB
"""Bytes of text files, all datasets together, that are parsed whole; about 0.2 s on a small virtual machine."""

_GIVE_UP_S = 2.0
_FILES = 8

_Header = TypeVar("_Header", ImageHeader, VideoHeader, AudioHeader)


@dataclass(frozen=True, slots=True)
class SurveyedRow:
    """One row: headers of its media, and the size of its text.

    Attributes:
        images: Its images.
        videos: Its videos.
        audios: Its audio clips.
        text_tokens: Tokens of its text, guessed from its length; of the whole row where it is tokenised already.
    """

    images: tuple[ImageHeader, ...] = ()
    videos: tuple[VideoHeader, ...] = ()
    audios: tuple[AudioHeader, ...] = ()
    text_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """What was seen of one dataset.

    Attributes:
        source: The dataset.
        rows: The rows looked at; none where it cannot be read.
        firm: How many of them, from the first, any process on this machine sees, however slow its disk is.
        total: Rows of the dataset, ``num_samples`` and ``max_samples`` applied; ``None`` where unknown.
        exact: Whether ``total`` was counted.
        seen: Kinds of media that the rows looked at name, readable or not.
        complete: Whether all rows were looked at.
        tokenized: Whether its rows hold token ids already, those of the media among them.
        notes: One sentence for each thing that could not be read.
    """

    source: DatasetSource
    rows: tuple[SurveyedRow, ...] = ()
    firm: int = 0
    total: int | None = None
    exact: bool = False
    seen: frozenset[Modality] = frozenset()
    complete: bool = False
    tokenized: bool = False
    notes: tuple[str, ...] = ()

    @property
    def kinds(self) -> frozenset[Modality] | None:
        """Kinds of media the dataset can bring; ``None`` where unknown."""
        if self.source.columns is None:
            return None
        return self.seen if self.complete else frozenset(self.source.columns)


@dataclass(slots=True)
class _Tally:
    rows: list[SurveyedRow] = field(default_factory=list)
    firm: int = 0
    looked: int = 0
    seen: set[Modality] = field(default_factory=set)
    broken: dict[Modality, int] = field(default_factory=dict)


def survey(
    sources: Sequence[DatasetSource],
    media_dir: Path,
    max_samples: int | None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Survey, ...]:
    """Return what a sample of the rows of each of ``sources`` holds.

    Args:
        sources: Datasets as `dataset.find_datasets` or `dataset.tokenized_dataset` give them.
        media_dir: Folder that media paths are relative to.
        max_samples: Rows LLaMA-Factory takes of each dataset; ``None`` for all.
        clock: Seconds from any start; tests inject their own.
    """
    start, surveys, whole_bytes = clock(), [], WHOLE_BYTES
    for source in sources:
        try:
            sample = _read(source, whole_bytes)
        except (OSError, ValueError, ImportError) as error:
            surveys.append(Survey(source, notes=(f"Dataset {source.name} cannot be read ({error}).",)))
            continue
        if sample is None:
            surveys.append(Survey(source, notes=() if source.note is None else (source.note,)))
            continue
        whole_bytes = max(0, whole_bytes - sample.parsed_bytes)
        surveys.append(_look(source, sample, media_dir, max_samples, lambda: clock() - start))
    return tuple(surveys)


def _read(source: DatasetSource, whole_bytes: int) -> RowSample | None:
    """Return rows of the files of ``source`` as one sample; ``None`` where it has no file.

    Raises:
        OSError, ValueError, ImportError: As `rows.read_rows`.
    """
    if not source.files:
        return None
    files = [source.files[i * len(source.files) // _FILES] for i in range(_FILES)]
    rows: list[dict[str, Any]] = []
    total, exact, parsed, sampled = 0, True, 0, 0
    for file in dict.fromkeys(files):
        sample = read_rows(file, MOST_ROWS, max(0, whole_bytes - parsed))
        rows += sample.rows
        parsed += sample.parsed_bytes
        sampled += file.stat().st_size
        if sample.total is None:
            return RowSample(tuple(rows), None, False, parsed)
        total, exact = total + sample.total, exact and sample.exact
    everything = sum(file.stat().st_size for file in source.files)
    if len(source.files) > _FILES and sampled:
        total, exact = total * everything // sampled, False
    return RowSample(tuple(rows), total, exact, parsed)


def _look(
    source: DatasetSource,
    sample: RowSample,
    media_dir: Path,
    max_samples: int | None,
    elapsed: Callable[[], float],
) -> Survey:
    """Look at rows of one dataset, evenly spread ones first."""
    # max_samples takes the first rows, num_samples any.
    rows = sample.rows if source.samples is not None else sample.rows[:max_samples]
    total = sample.total if source.samples is None else source.samples
    if total is not None and max_samples is not None:
        total = min(total, max_samples)
    tally = _Tally()
    for index in _spread(len(rows)):
        if elapsed() > (BUDGET_S if tally.looked >= FIRST_ROWS else _GIVE_UP_S):
            break
        row = _row(source, rows[index], media_dir, tally)
        tally.looked += 1
        if row is not None:
            tally.rows.append(row)
            tally.firm += tally.looked <= FIRST_ROWS
    return Survey(
        source,
        rows=tuple(tally.rows),
        firm=tally.firm,
        total=total,
        exact=(sample.exact or source.samples is not None) and not source.sliced and total is not None,
        seen=frozenset(tally.seen),
        complete=tally.looked == len(rows) and (sample.complete or len(rows) == max_samples),
        tokenized=any(isinstance(row.get("input_ids"), int) for row in rows[:1]),
        notes=tuple(
            f"Dataset {source.name}: {count} {kind.value} files of {tally.looked} rows are missing or unreadable."
            for kind, count in tally.broken.items()
        ),
    )


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
