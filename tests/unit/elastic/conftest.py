"""A log to read, and the leak check of every loader test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker

import pytest

from lf_autoworkers.elastic.api import LOGGER_NAME
from tests.property.elastic_programs import belongings, check_nothing_left


@pytest.fixture(scope="session", autouse=True)
def _pythons_own_helpers() -> None:
    """Start the processes that Python itself keeps for the rest of its life once spawn or forkserver was used."""
    resource_tracker.ensure_running()
    forkserver.ensure_running()


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    before = belongings()
    yield
    check_nothing_left(before)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """The loader's warning lines, as they come."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger(LOGGER_NAME), Keep()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
