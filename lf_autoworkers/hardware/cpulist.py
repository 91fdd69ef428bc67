"""Sets of CPUs as the kernel writes them (``0-3,8``)."""

from __future__ import annotations

from collections.abc import Iterable

# Far above any kernel's NR_CPUS (8192); a number past it is garbage, and must not become a huge range.
_MOST_CPUS = 1 << 16


def parse_cpulist(text: str) -> frozenset[int]:
    """Return the CPUs in ``text``; an empty text names none.

    Raises:
        ValueError: ``text`` is no such list.
    """
    cpus: set[int] = set()
    for part in text.strip().split(",") if text.strip() else ():
        first, dash, last = part.partition("-")
        low, high = int(first), int(last) if dash else int(first)
        if not 0 <= low <= high < _MOST_CPUS:
            raise ValueError(f"{part!r} is no range of CPUs")
        cpus.update(range(low, high + 1))
    return frozenset(cpus)


def format_cpulist(cpus: Iterable[int]) -> str:
    """Return ``cpus`` in the kernel's form, runs joined."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
