from __future__ import annotations

from pathlib import Path

import pytest

from lf_autoworkers.errors import AutoWorkersError
from lf_autoworkers.hardware import Machine, detect_hardware, expected_ranks, save_machine

from .fake import fake_machine, v2_machine, write_files


def files_below(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_this_machine_read_back_gives_the_same_facts(tmp_path: Path) -> None:
    machine = Machine.live()
    save_machine(tmp_path / "saved", machine)
    saved = Machine.load(tmp_path / "saved")

    assert detect_hardware(saved) == detect_hardware(machine)
    gpus = detect_hardware(saved).gpus
    assert expected_ranks(saved, gpus) == expected_ranks(machine, gpus)


def test_exactly_what_was_read_is_written_as_it_was(tmp_path: Path) -> None:
    machine = v2_machine(tmp_path / "root", {"cpu.max": "200000 100000\n", "cpu.weight": "100\n"}, cpu_count=4)
    save_machine(tmp_path / "saved", machine)
    saved = files_below(tmp_path / "saved")
    root = files_below(tmp_path / "root")

    assert set(saved) == {"machine.json", "proc/self/cgroup", "proc/self/mountinfo", "sys/fs/cgroup/cpu.max"}
    assert all(saved[path] == root[path] for path in saved if path != "machine.json")


def test_device_files_and_unreadable_files_are_kept_as_such(tmp_path: Path) -> None:
    machine = fake_machine(tmp_path / "root", {f"/dev/davinci{i}": "" for i in range(2)})
    write_files(tmp_path / "root", {"/proc/meminfo/child": ""})
    save_machine(tmp_path / "saved", machine)
    saved = Machine.load(tmp_path / "saved")
    hardware = detect_hardware(saved)

    assert expected_ranks(saved, hardware.gpus).local_world_size == 2
    assert hardware.problems == ("/proc/meminfo cannot be read: Is a directory.",)
    assert hardware == detect_hardware(machine)


def test_a_saved_machine_can_be_saved_again(tmp_path: Path) -> None:
    save_machine(tmp_path / "one", Machine.live())
    save_machine(tmp_path / "two", Machine.load(tmp_path / "one"))

    assert files_below(tmp_path / "one") == files_below(tmp_path / "two")


def test_a_directory_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(AutoWorkersError, match="is not empty; name a new directory"):
        save_machine(tmp_path, fake_machine(tmp_path / "root"))
    assert files_below(tmp_path) == {"notes.txt": b"mine"}


def test_a_file_in_the_way_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")

    with pytest.raises(AutoWorkersError, match=r"cannot be saved in .*file: File exists\."):
        save_machine(tmp_path / "file", fake_machine(tmp_path / "root"))
