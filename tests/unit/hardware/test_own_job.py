from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lf_autoworkers.hardware.own_job import own_job_bytes
from lf_autoworkers.units import MIB

from .fake import write_files


def add(proc: Path, pid: int, parent: int, command: str, rollup_kib: tuple[int, int, int] = (1024, 0, 0)) -> None:
    anon, shmem, files = rollup_kib
    write_files(
        proc,
        {
            f"{pid}/cmdline": command.replace(" ", "\0") + "\0",
            f"{pid}/stat": f"{pid} (a (very) odd name) S {parent} {pid} {pid} 0 -1\n",
            f"{pid}/smaps_rollup": (
                "5563b1659000-7ffc7e433000 ---p 00000000 00:00 0                          [rollup]\n"
                f"Rss:             999999 kB\nPss:             999999 kB\nPss_Anon:        {anon} kB\n"
                f"Pss_File:        {files} kB\nPss_Shmem:       {shmem} kB\n"
            ),
        },
    )


def mib(proc: Path, pid: int) -> float:
    return own_job_bytes(proc, pid) / MIB


def test_a_process_alone_counts_itself_without_file_pages(tmp_path: Path) -> None:
    add(tmp_path, 10, 5, "python train.py", (3 * 1024, 1024, 500 * 1024))
    add(tmp_path, 5, 1, "pytest")

    assert mib(tmp_path, 10) == 4


def test_a_whole_torchrun_job_counts_and_its_shell_does_not(tmp_path: Path) -> None:
    add(tmp_path, 5, 1, "bash", (9000 * 1024, 0, 0))
    add(tmp_path, 6, 5, "python other_training.py", (9000 * 1024, 0, 0))
    add(tmp_path, 10, 5, "/venv/bin/python /venv/bin/llamafactory-cli train x.yaml", (100 * 1024, 0, 0))
    add(tmp_path, 11, 10, "/venv/bin/python /venv/bin/torchrun --nproc_per_node 2 launcher.py", (20 * 1024, 0, 0))
    add(tmp_path, 12, 11, "/venv/bin/python -u launcher.py x.yaml", (300 * 1024, 0, 0))
    add(tmp_path, 13, 11, "/venv/bin/python -u launcher.py x.yaml", (301 * 1024, 0, 0))
    add(tmp_path, 14, 13, "/venv/bin/python -u launcher.py x.yaml", (7 * 1024, 0, 0))

    assert mib(tmp_path, 12) == 728
    assert mib(tmp_path, 13) == 728


@pytest.mark.parametrize(
    "command",
    [
        "torchrun --standalone train.py",
        "python -m torch.distributed.run train.py",
        "python -X dev -m torch.distributed.launch train.py",
        "/venv/bin/python /venv/bin/lf-autoworkers run -- train",
        "accelerate launch train.py",
        "llamafactory-cli sft x.yaml",
        "python -m llamafactory.cli train x.yaml",
        "/bin/torchrun.exe train.py",
    ],
)
def test_launchers_are_known_by_their_command(tmp_path: Path, command: str) -> None:
    add(tmp_path, 10, 1, command)
    add(tmp_path, 11, 10, "python train.py")
    add(tmp_path, 12, 10, "python train.py")

    assert mib(tmp_path, 11) == 3


@pytest.mark.parametrize(
    "command",
    [
        "llamafactory-cli webui",
        "llamafactory-cli",
        "python -m pytest torchrun_tests",
        "python watch.py torchrun",
        "sshd",
    ],
)
def test_what_lives_on_between_runs_is_no_launcher(tmp_path: Path, command: str) -> None:
    add(tmp_path, 10, 1, command)
    add(tmp_path, 11, 10, "python train.py")
    add(tmp_path, 12, 10, "python another.py")

    assert mib(tmp_path, 11) == 1


def test_a_shell_between_two_launchers_is_passed(tmp_path: Path) -> None:
    add(tmp_path, 10, 1, "lf-autoworkers run -- bash go.sh")
    add(tmp_path, 11, 10, "bash go.sh")
    add(tmp_path, 12, 11, "llamafactory-cli train x.yaml")

    assert mib(tmp_path, 12) == 3


def test_a_kernel_without_the_split_falls_back_to_resident_pages(tmp_path: Path) -> None:
    add(tmp_path, 10, 1, "python train.py")
    (tmp_path / "10/smaps_rollup").write_text("Rss:  99 kB\nPss:  99 kB\n")
    write_files(tmp_path, {"10/status": "VmRSS:\t9999 kB\nRssAnon:\t2048 kB\nRssFile:\t77 kB\nRssShmem:\t1024 kB\n"})

    assert mib(tmp_path, 10) == 3


def test_a_process_nobody_can_look_into_counts_nothing(tmp_path: Path) -> None:
    add(tmp_path, 10, 1, "python train.py")
    (tmp_path / "10/smaps_rollup").write_text("garbage\n")

    assert mib(tmp_path, 10) == 0


def test_without_proc_psutil_tells_about_the_process_itself(tmp_path: Path) -> None:
    assert own_job_bytes(tmp_path / "nowhere", os.getpid()) > 10 * MIB


LAUNCHER = """
    import subprocess, sys
    child = subprocess.Popen([sys.executable, sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    sys.stdout.write(subprocess.run([sys.executable, sys.argv[2]], capture_output=True, text=True, check=True).stdout)
    child.communicate()
"""
SIBLING = """
    import sys
    block = b"x" * (96 << 20)
    print("ready", flush=True)
    sys.stdin.read()
"""
ASKER = """
    import os
    from pathlib import Path
    from lf_autoworkers.hardware.own_job import own_job_bytes
    print(own_job_bytes(Path("/proc"), os.getpid()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("name", "counted"), [("torchrun", True), ("notebook", False)])
def test_a_real_sibling_rank_counts_under_a_launcher_only(tmp_path: Path, name: str, counted: bool) -> None:
    scripts = {name: LAUNCHER, "sibling.py": SIBLING, "asker.py": ASKER}
    write_files(tmp_path, {path: textwrap.dedent(text) for path, text in scripts.items()})
    command = [sys.executable, *(str(tmp_path / path) for path in scripts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    assert (int(done.stdout) > 96 * MIB) is counted
