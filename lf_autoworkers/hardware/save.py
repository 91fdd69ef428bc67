"""Writing a machine to a directory, so that another one can answer for it.

Covers which files are written and how. What they mean is told by those who read them.
"""

from __future__ import annotations

from pathlib import Path

from lf_autoworkers.errors import AutoWorkersError

from .detect import detect_hardware
from .machine import Machine
from .ranks import expected_ranks
from .saved import MACHINE_FILE, format_machine_file


def save_machine(directory: Path, machine: Machine) -> None:
    """Write every file that detection reads on ``machine`` below ``directory``, as it is, and `machine.json`.

    `Machine.load(directory)` then gives the same facts.

    Raises:
        AutoWorkersError: ``directory`` is a file, is not empty, or cannot be written.
    """
    hardware = detect_hardware(machine)
    expected_ranks(machine, hardware.gpus)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise AutoWorkersError(f"{directory} is not empty; name a new directory to save this machine in.")
        for path in sorted(machine.matches - machine.texts.keys()):
            _write(directory, path, "")
        for path, text in machine.texts.items():
            _write(directory, path, text)
        _write(directory, MACHINE_FILE, format_machine_file(machine.probes, machine.unreadable))
    except OSError as error:
        raise AutoWorkersError(f"This machine cannot be saved in {directory}: {error.strerror or error}.") from error


def _write(directory: Path, path: str, text: str) -> None:
    target = directory / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(text.encode())
