from __future__ import annotations

from pathlib import Path

import pytest

from lf_autoworkers.errors import AutoWorkersError
from lf_autoworkers.hardware import Machine
from lf_autoworkers.hardware.probes import Probes

from .fake import fake_machine, write_files


def test_a_missing_file_is_none_and_no_problem(tmp_path: Path) -> None:
    machine = fake_machine(tmp_path, {"/a": "text\n"})

    assert machine.read_text("/nowhere/at/all") is None
    assert machine.read_text("/a/below/a/file") is None
    assert machine.problems == []


def test_an_unreadable_file_is_none_and_one_problem(tmp_path: Path) -> None:
    machine = fake_machine(tmp_path, {"/sys/dir/file": ""})

    assert machine.read_text("/sys/dir") is None
    assert machine.read_text("/sys/dir") is None
    assert machine.problems == ["/sys/dir cannot be read: Is a directory."]


def test_bytes_that_are_no_text_are_a_problem(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"\xff\xfe")
    machine = fake_machine(tmp_path)

    assert machine.read_text("/blob") is None
    assert machine.problems == ["/blob does not hold text."]


def test_a_machine_is_one_moment(tmp_path: Path) -> None:
    machine = fake_machine(tmp_path, {"/a": "1\n"})
    assert machine.read_number("/a") == 1

    write_files(tmp_path, {"/a": "2\n", "/late": "3\n"})
    assert machine.read_number("/a") == 1
    assert fake_machine(tmp_path).read_number("/a") == 2


def test_numbers(tmp_path: Path) -> None:
    machine = fake_machine(tmp_path, {"/n": " 42\n", "/negative": "-1\n", "/word": "max\n", "/empty": ""})

    assert machine.read_number("/n") == 42
    assert machine.read_number("/negative") == -1
    assert machine.read_number("/nowhere") is None
    assert machine.read_number("/word") is None
    assert machine.read_number("/empty") is None
    assert machine.problems == [
        "/word holds 'max', which could not be understood.",
        "/empty holds '', which could not be understood.",
    ]


def test_globs_are_absolute_and_sorted(tmp_path: Path) -> None:
    machine = fake_machine(tmp_path, {"/dev/dri/renderD129": "", "/dev/dri/renderD128": "", "/dev/dri/card0": ""})

    assert machine.glob("/dev/dri/renderD*") == ("/dev/dri/renderD128", "/dev/dri/renderD129")
    assert machine.glob("/dev/none*") == ()


def test_problems_of_the_probes_come_first(tmp_path: Path) -> None:
    machine = Machine(tmp_path, Probes("Linux", "fork", problems=("one",)))
    machine.problem("two")
    machine.problem("one")

    assert machine.problems == ["one", "two"]


def test_a_directory_without_a_machine_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(AutoWorkersError, match=r"holds no machine\.json; `lf-autoworkers doctor --save-machine DIR`"):
        Machine.load(tmp_path)
