"""The table of variables and its parser."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lf_autoworkers.settings import PREFIX, VARIABLES, Settings, read_settings
from lf_autoworkers.units import GIB, MIB, format_size, parse_size


@pytest.mark.parametrize(
    ("suffix", "text", "field", "value"),
    [
        ("DISABLE", "1", "disable", True),
        ("DATALOADER_NUM_WORKERS", "0", "dataloader_num_workers", 0),
        ("DATALOADER_NUM_WORKERS", " 1024 ", "dataloader_num_workers", 1024),
        ("PREPROCESSING_NUM_WORKERS", "1", "preprocessing_num_workers", 1),
        ("CPUS", "2.5", "cpus", 2.5),
        ("MEMORY_LIMIT", "16GiB", "memory_limit_bytes", 16 * GIB),
        ("MEMORY_RESERVE", "512m", "memory_reserve_bytes", 512 * MIB),
        ("SHM", "64 MiB", "shm_bytes", 64 * MIB),
        ("LOCAL_WORLD_SIZE", "8", "local_world_size", 8),
        ("MODALITY", "Video", "modality", "video"),
        ("ELASTIC", "off", "elastic", False),
        ("GUARD", "observe", "guard", "observe"),
        ("HISTORY", "/somewhere", "history", Path("/somewhere")),
        ("HISTORY", "off", "history_off", True),
        ("STRICT", "true", "strict", True),
        ("LOG", "debug", "log", "debug"),
    ],
)
def test_a_value_reaches_its_field(suffix: str, text: str, field: str, value: object) -> None:
    reading = read_settings({PREFIX + suffix: text})
    assert not reading.errors
    assert getattr(reading.settings, field) == value


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("DATALOADER_NUM_WORKERS", "many"),
        ("DATALOADER_NUM_WORKERS", "-1"),
        ("DATALOADER_NUM_WORKERS", "1e9"),
        ("DATALOADER_NUM_WORKERS", "1025"),
        ("DATALOADER_NUM_WORKERS", "４"),
        ("DATALOADER_NUM_WORKERS", "auto"),
        ("PREPROCESSING_NUM_WORKERS", "0"),
        ("CPUS", "0"),
        ("CPUS", "nan"),
        ("MEMORY_LIMIT", "lots"),
        ("MEMORY_LIMIT", "0"),
        ("SHM", "64 parsec"),
        ("SHM", "9" * 400),
        ("LOCAL_WORLD_SIZE", "0"),
        ("MODALITY", "smell"),
        ("GUARD", "maybe"),
        ("DISABLE", "perhaps"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(suffix: str, text: str) -> None:
    reading = read_settings({PREFIX + suffix: text})
    (error,) = reading.errors
    allowed = next(variable.allowed for variable in VARIABLES if variable.suffix == suffix)
    assert str(error) == f"{PREFIX}{suffix}={text} is not allowed: it takes {allowed}."
    assert reading.settings == Settings()


def test_an_empty_value_is_unset() -> None:
    assert read_settings({PREFIX + "CPUS": "  "}).settings == Settings()


def test_an_unknown_variable_is_named_with_the_nearest_one() -> None:
    (sentence,) = read_settings({PREFIX + "DATALODER_NUM_WORKERS": "3"}).unknown
    assert "did you mean LF_AUTOWORKERS_DATALOADER_NUM_WORKERS?" in sentence


def test_every_setting_has_a_variable() -> None:
    assert {variable.field for variable in VARIABLES} | {"history_off"} == {
        field.name for field in dataclasses.fields(Settings)
    }


@given(st.integers(1, 1 << 50))
def test_a_printed_size_is_read_back_within_its_rounding(size: int) -> None:
    read = parse_size(format_size(size))
    assert abs(read - size) <= max(1, size * 0.06)


@given(st.dictionaries(st.sampled_from([v.name for v in VARIABLES]), st.text(max_size=20)))
def test_no_environment_makes_reading_raise(environ: dict[str, str]) -> None:
    read_settings(environ)
