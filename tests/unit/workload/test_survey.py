"""What a sample of rows holds: media, text, limits of time and bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lf_autoworkers.workload.dataset import find_datasets
from lf_autoworkers.workload.facts import Modality
from lf_autoworkers.workload.media import ImageHeader
from lf_autoworkers.workload.survey import FIRST_ROWS, Survey, survey

pytest.importorskip("PIL")


def picture(folder: Path, name: str, size: tuple[int, int]) -> str:
    from PIL import Image

    Image.new("RGB", size).save(folder / name)
    return name


def look(folder: Path, rows: list[Any], max_samples: int | None = None, **entry: Any) -> Survey:
    (folder / "a.json").write_text(json.dumps(rows))
    table = {"a": {"file_name": "a.json", "columns": {"images": "images"}, **entry}}
    (folder / "dataset_info.json").write_text(json.dumps(table))
    (found,) = survey(find_datasets(["a"], str(folder)), folder, max_samples)
    return found


def test_several_images_and_none_a_row(tmp_path: Path) -> None:
    small, large = picture(tmp_path, "s.png", (10, 20)), picture(tmp_path, "l.png", (30, 40))
    found = look(tmp_path, [{"images": [small, large]}, {"images": small}, {"images": []}, {"images": None}, {}])
    s, big = ImageHeader(10, 20), ImageHeader(30, 40)
    assert [row.images for row in found.rows] == [(s, big), (s,), (), (), ()]
    assert (found.total, found.exact, found.complete) == (5, True, True)
    assert found.kinds == frozenset({Modality.IMAGE})


def test_a_column_that_no_row_fills_is_no_medium(tmp_path: Path) -> None:
    assert look(tmp_path, [{"text": "hello", "images": []}]).kinds == frozenset()


def test_a_row_with_a_missing_file_is_skipped_and_noted(tmp_path: Path) -> None:
    good = picture(tmp_path, "a.png", (10, 20))
    found = look(tmp_path, [{"images": [good]}, {"images": [good, "missing.png"]}])
    assert len(found.rows) == 1 and found.kinds == frozenset({Modality.IMAGE})
    assert found.notes == ("Dataset a: 1 image files of 2 rows are missing or unreadable.",)


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [("word " * 300, 300, 600), ("汉字" * 100, 150, 300), ([{"content": "word " * 300}], 300, 600), (7, 0, 0)],
)
def test_tokens_are_guessed_from_text_on_the_safe_side(tmp_path: Path, value: Any, low: int, high: int) -> None:
    (row,) = look(tmp_path, [{"anything": value}]).rows
    assert low <= row.text_tokens <= high


@pytest.mark.parametrize(
    ("max_samples", "entry", "total", "complete"),
    [
        (None, {}, 10, True),
        (4, {}, 4, True),
        (40, {}, 10, True),
        (None, {"num_samples": 25}, 25, True),
        (4, {"num_samples": 25}, 4, True),
    ],
)
def test_rows_are_limited_as_llamafactory_does(
    tmp_path: Path, max_samples: int | None, entry: dict[str, Any], total: int, complete: bool
) -> None:
    found = look(tmp_path, [{"n": str(i)} for i in range(10)], max_samples, **entry)
    assert (found.total, found.exact, found.complete) == (total, True, complete)


def test_a_sliced_split_is_not_exact(tmp_path: Path) -> None:
    assert not look(tmp_path, [{"n": "1"}] * 10, split="train[:5]").exact


def clock(step_s: float) -> Callable[[], float]:
    ticks: Iterator[int] = iter(range(10**9))
    return lambda: next(ticks) * step_s


def test_the_first_rows_are_spread_and_looked_at_however_slow_the_disk_is(tmp_path: Path) -> None:
    for i in range(200):
        picture(tmp_path, f"{i}.png", (10 + i, 10))
    look(tmp_path, [{"images": [f"{i}.png"]} for i in range(200)])
    sources = find_datasets(["a"], str(tmp_path))
    (slow,) = survey(sources, tmp_path, None, clock=clock(0.01))
    (fast,) = survey(sources, tmp_path, None, clock=clock(0.0))
    assert slow.firm == len(slow.rows) == FIRST_ROWS and not slow.complete
    assert fast.firm == FIRST_ROWS and len(fast.rows) == 200 and fast.complete
    assert slow.rows == fast.rows[:FIRST_ROWS]
    assert max(row.images[0].width for row in slow.rows) > 190


def test_a_hopeless_disk_ends_the_look_early(tmp_path: Path) -> None:
    look(tmp_path, [{"n": "1"}] * 100)
    (found,) = survey(find_datasets(["a"], str(tmp_path)), tmp_path, None, clock=clock(1.0))
    assert len(found.rows) < 5 and not found.complete


def test_many_files_are_sampled_and_the_rest_estimated_by_size(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for i in range(40):
        (tmp_path / "shards" / f"{i}.jsonl").write_text('{"text": "hello"}\n' * 100)
    (tmp_path / "dataset_info.json").write_text(json.dumps({"a": {"file_name": "shards"}}))
    (found,) = survey(find_datasets(["a"], str(tmp_path)), tmp_path, None)
    assert (found.total, found.exact, found.complete) == (4000, False, False)


def test_an_unreadable_dataset_is_noted_and_the_next_is_read(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[{")
    (tmp_path / "good.json").write_text('[{"text": "hello"}]')
    table = {name: {"file_name": f"{name}.json"} for name in ("bad", "good")}
    (tmp_path / "dataset_info.json").write_text(json.dumps(table))
    bad, good = survey(find_datasets(["bad", "good"], str(tmp_path)), tmp_path, None)
    assert bad.rows == () and bad.total is None and bad.notes[0].startswith("Dataset bad cannot be read")
    assert (good.total, good.notes) == (1, ())
