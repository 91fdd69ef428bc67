"""Some rows of a dataset file and how many it holds, without reading more than a bounded part of it.

Covers the file types LLaMA-Factory accepts: json, jsonl, csv, txt, parquet, arrow. Small text files are read whole, so
that rows are counted; of larger ones only a few windows are read and rows are estimated from the file's size (parquet
and arrow say how many they have). Which files make a dataset is told by `dataset`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lf_autoworkers.units import KIB, MIB

_COUNT_LINES_BYTES = 64 * MIB
_WINDOW_BYTES = 512 * KIB
_WINDOWS = 8

FILE_TYPES = {"arrow": "arrow", "csv": "csv", "json": "json", "jsonl": "json", "parquet": "parquet", "txt": "text"}
"""LLaMA-Factory's own table of file name endings."""


@dataclass(frozen=True, slots=True)
class RowSample:
    """Rows of one file.

    Attributes:
        rows: The rows read, in file order.
        total: Rows of the whole file; an estimate unless ``exact``; ``None`` where even that is impossible.
        exact: Whether ``total`` was counted.
        parsed_bytes: Bytes of text that were parsed whole.
    """

    rows: tuple[dict[str, Any], ...]
    total: int | None
    exact: bool
    parsed_bytes: int = 0

    @property
    def complete(self) -> bool:
        """Whether ``rows`` are all the file has."""
        return self.exact and self.total == len(self.rows)


def read_rows(path: Path, limit: int, whole_bytes: int) -> RowSample:
    """Return rows of ``path``: all of a small text file, else some of its head or spread over it.

    Args:
        path: A file whose ending says what it is.
        limit: About how many rows to read of a parquet or arrow file.
        whole_bytes: Largest text file to parse whole.

    Raises:
        OSError: The file cannot be read.
        ValueError: Its contents are not what its name says, or its type is unknown.
        ImportError: Reading this type needs pyarrow, which is not installed.
    """
    kind = FILE_TYPES.get(path.suffix[1:])
    if kind == "parquet":
        return _read_parquet(path, limit)
    if kind == "arrow":
        return _read_arrow(path, limit)
    if kind == "json":
        return _read_json(path, whole_bytes)
    if kind == "csv":
        return _read_csv(path, whole_bytes)
    if kind == "text":
        return _read_lines(path, whole_bytes, _text_row)
    raise ValueError(f"{path.name} is none of {', '.join(sorted(FILE_TYPES))}")


def _rows_of(values: list[Any]) -> tuple[dict[str, Any], ...]:
    return tuple(value for value in values if isinstance(value, dict))


def _text_row(line: str) -> Any:
    return {"text": line}


def _read_json(path: Path, whole_bytes: int) -> RowSample:
    with path.open("rb") as file:
        head = file.read(4 * KIB).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"["):
        return _read_json_array(path, whole_bytes)
    if head.startswith(b"{"):
        return _read_lines(path, whole_bytes, json.loads)
    raise ValueError(f"{path.name} starts neither with [ nor with {{")


def _read_json_array(path: Path, whole_bytes: int) -> RowSample:
    size = path.stat().st_size
    if size <= whole_bytes:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
        return RowSample(_rows_of(values), len(values), True, size)
    text = _window(path, 0, _WINDOWS * _WINDOW_BYTES)
    values, end = [], text.index("[") + 1
    decoder = json.JSONDecoder()
    while True:
        while end < len(text) and text[end] in " \t\r\n,":
            end += 1
        try:
            value, end = decoder.raw_decode(text, end)
        except ValueError:  # The window ends inside this row.
            break
        values.append(value)
    read_bytes = len(text[:end].encode())
    total = size * len(values) // read_bytes if values else None
    return RowSample(_rows_of(values), total, False)


def _read_lines(path: Path, whole_bytes: int, parse: Callable[[str], Any]) -> RowSample:
    size = path.stat().st_size
    if size <= whole_bytes:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        return RowSample(_rows_of([parse(line) for line in lines]), len(lines), True, size)
    lines = []
    for window in range(_WINDOWS):
        start = (size - _WINDOW_BYTES) * window // (_WINDOWS - 1)
        pieces = _window(path, start, _WINDOW_BYTES).split("\n")
        lines += [piece for piece in pieces[1 if start else 0 : -1] if piece.strip()]
    if not lines:
        return RowSample((), None, False)
    rows = _rows_of([parse(line) for line in lines])
    if size <= _COUNT_LINES_BYTES:
        return RowSample(rows, _count_lines(path), True)
    return RowSample(rows, size * len(lines) // sum(len(line.encode()) + 1 for line in lines), False)


def _window(path: Path, start: int, length: int) -> str:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length).decode("utf-8", errors="ignore").lstrip("\ufeff")


def _count_lines(path: Path) -> int:
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while chunk := file.read(4 * MIB):
            count, last = count + chunk.count(b"\n"), chunk[-1:]
    return count + (last != b"\n")


def _read_csv(path: Path, whole_bytes: int) -> RowSample:
    size = path.stat().st_size
    whole = size <= whole_bytes
    text = path.read_text(encoding="utf-8-sig") if whole else _window(path, 0, _WINDOWS * _WINDOW_BYTES)
    try:
        rows = tuple(dict(row) for row in csv.DictReader(io.StringIO(text)))
    except csv.Error as error:
        raise ValueError(f"{path.name}: {error}") from error
    if whole:
        return RowSample(rows, len(rows), True, size)
    return RowSample(rows[:-1], size * len(rows) // len(text.encode()), False)


def _read_parquet(path: Path, limit: int) -> RowSample:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # A buffered stream keeps embedded images from being read by the row group (hundreds of MB).
        with parquet.ParquetFile(path, buffer_size=MIB) as file:
            rows: list[dict[str, Any]] = []
            for batch in file.iter_batches(batch_size=min(limit, 64)):
                rows += batch.to_pylist()
                if len(rows) >= limit or batch.nbytes > 8 * MIB:
                    break
            return RowSample(tuple(rows), file.metadata.num_rows, True)
    except pa.ArrowException as error:
        raise ValueError(f"{path.name}: {error}") from error


def _read_arrow(path: Path, limit: int) -> RowSample:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as mapped:
            rows: list[dict[str, Any]] = []
            total = 0
            for batch in _arrow_batches(mapped):
                total += batch.num_rows
                if len(rows) < limit:
                    rows += _token_lengths(batch.slice(0, limit - len(rows))).to_pylist()
            return RowSample(tuple(rows), total, True)
    except pa.ArrowException as error:
        raise ValueError(f"{path.name}: {error}") from error


def _token_lengths(batch: Any) -> Any:
    """Return ``batch`` with each list of integers replaced by its length: token ids are counted, never looked at."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [pc.list_value_length(column) if _is_token_list(column.type) else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _is_token_list(kind: Any) -> bool:
    import pyarrow as pa

    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(nested and pa.types.is_integer(kind.value_type))


def _arrow_batches(mapped: Any) -> Iterator[Any]:
    import pyarrow as pa

    try:
        reader = pa.ipc.open_stream(mapped)
    except pa.ArrowInvalid:
        mapped.seek(0)
        file = pa.ipc.open_file(mapped)
        return iter(file.get_batch(i) for i in range(file.num_record_batches))
    return iter(reader)
