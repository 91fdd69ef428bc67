"""Sizes as people write them ("16GiB") and as code counts them (bytes).

The one formatter and the one parser of quantities; what the numbers mean is told by whoever holds them.
"""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

_BINARY = {"": 1, "b": 1, "k": KIB, "kib": KIB, "m": MIB, "mib": MIB, "g": GIB, "gib": GIB, "t": TIB, "tib": TIB}
_DECIMAL = {"kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4}
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)")


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` names.

    Args:
        text: A number with an optional unit, any case: ``16GiB``, ``512m``, ``1.5 TiB``, ``2GB`` (decimal), ``4096``.
            A unit of one letter is binary, as in Docker's ``--memory``.

    Raises:
        ValueError: ``text`` is no size, or is smaller than one byte.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 16GiB")
    factor = {**_BINARY, **_DECIMAL}.get(match[2].lower())
    if factor is None:
        raise ValueError(f"{text!r} has an unknown unit {match[2]!r}; use KiB, MiB, GiB or TiB")
    size = int(float(match[1]) * factor)
    if size < 1:
        raise ValueError(f"{text!r} is not a size above zero")
    return size


def format_size(size_bytes: int) -> str:
    """Return ``size_bytes`` for a person: the largest binary unit that keeps it at 1 or more, one decimal."""
    sign, size = ("-" if size_bytes < 0 else ""), abs(size_bytes)
    for name, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size >= factor:
            return f"{sign}{size / factor:.1f} {name}"
    return f"{sign}{size} B"


def format_count(value: float) -> str:
    """Return a count without a needless fraction: ``4``, ``2.5``."""
    return f"{value:g}" if value != int(value) else str(int(value))


def round_down(size_bytes: int, step_bytes: int) -> int:
    """Return ``size_bytes`` rounded down to a multiple of ``step_bytes``, never below 0."""
    return max(0, size_bytes // step_bytes * step_bytes)
