"""Reading and counting rows of every file type, whole and in windows."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from lf_autoworkers.units import MIB
from lf_autoworkers.workload.rows import RowSample, read_rows

Rows = list[dict[str, Any]]


def rows(count: int, letters: int = 20) -> Rows:
    rng = random.Random(0)
    return [{"instruction": f"row {i}", "output": "x" * rng.randint(1, 2 * letters)} for i in range(count)]


def write_json(path: Path, values: Rows) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def write_pretty(path: Path, values: Rows) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8-sig")


def write_jsonl(path: Path, values: Rows) -> None:
    path.write_text("\n".join(json.dumps(value) for value in values), encoding="utf-8")


def write_csv(path: Path, values: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(values[0]))
        writer.writeheader()
        writer.writerows(values)


def write_parquet(path: Path, values: Rows) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.Table.from_pylist(values), path, row_group_size=50)


def write_arrow_stream(path: Path, values: Rows) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.Table.from_pylist(values)
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=10)


def write_arrow_file(path: Path, values: Rows) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.Table.from_pylist(values)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=10)


TEXT = [("a.json", write_json), ("a.json", write_pretty), ("a.json", write_jsonl), ("a.jsonl", write_jsonl)]
EVERY = [
    *TEXT,
    ("a.csv", write_csv),
    ("a.parquet", write_parquet),
    ("a.arrow", write_arrow_stream),
    ("a.arrow", write_arrow_file),
]


@pytest.mark.parametrize(("name", "write"), EVERY)
def test_a_small_file_is_counted_and_read_whole(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name, rows(40))
    sample = read_rows(tmp_path / name, 1000, MIB)
    assert (sample.total, sample.exact, sample.complete) == (40, True, True)
    assert sample.rows == tuple(rows(40))


@pytest.mark.parametrize(("name", "write"), [*TEXT, ("a.csv", write_csv)])
def test_rows_of_a_large_file_are_estimated_within_a_fifth(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name, rows(300_000, letters=125))
    size = (tmp_path / name).stat().st_size
    sample = read_rows(tmp_path / name, 1000, MIB)
    assert sample.total == pytest.approx(300_000, rel=0.2)
    assert not sample.complete and 100 < len(sample.rows) < 100_000
    assert sample.exact is (size <= 64 * MIB and write is write_jsonl)
    assert all(row["instruction"].startswith("row ") for row in sample.rows)


def test_lines_of_a_middling_file_are_counted(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows(30_000, letters=200))
    sample = read_rows(tmp_path / "a.jsonl", 1000, MIB)
    assert (sample.total, sample.exact) == (30_000, True)
    # The windows reach the end of the file too: rows there may be larger than at its head.
    assert int(sample.rows[-1]["instruction"].split()[1]) > 29_000


@pytest.mark.parametrize(("name", "write"), EVERY[-3:])
def test_a_table_says_how_many_rows_it_has_and_few_are_read(tmp_path: Path, name: str, write: Any) -> None:
    write(tmp_path / name, rows(500))
    sample = read_rows(tmp_path / name, 100, MIB)
    assert (sample.total, sample.exact, sample.complete) == (500, True, False)
    assert 100 <= len(sample.rows) <= 200


def test_token_ids_are_counted_not_kept(tmp_path: Path) -> None:
    write_arrow_stream(tmp_path / "a.arrow", [{"input_ids": [1] * n, "images": ["a.jpg"]} for n in (3, 5)])
    assert read_rows(tmp_path / "a.arrow", 10, MIB).rows == (
        {"input_ids": 3, "images": ["a.jpg"]},
        {"input_ids": 5, "images": ["a.jpg"]},
    )


def test_lines_of_text_are_rows(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert read_rows(tmp_path / "a.txt", 10, MIB) == RowSample(({"text": "one"}, {"text": "two"}), 2, True, 9)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"[{]"),
        ("a.json", b"not json"),
        ("a.json", b""),
        ("a.jsonl", b'{"a": 1}\n{"b"'),
        ("a.json", b'["\xff\xfe"]'),
        ("a.parquet", b"PAR1 but not really"),
        ("a.arrow", b"ARROW1 but not really"),
        ("a.csv", b'"' + b"x" * 200_000),
        ("a.pickle", b""),
    ],
)
def test_a_broken_file_raises_what_the_docstring_says(tmp_path: Path, name: str, content: bytes) -> None:
    if name.endswith((".parquet", ".arrow")):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises((OSError, ValueError)):
        read_rows(tmp_path / name, 10, MIB)
