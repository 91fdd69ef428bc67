from __future__ import annotations

import json
from pathlib import Path

import pytest

from lf_autoworkers.errors import AutoWorkersError
from lf_autoworkers.hardware.nvml import MigInstance, NvmlAnswer, NvmlDevice
from lf_autoworkers.hardware.probes import Probes
from lf_autoworkers.hardware.saved import format_machine_file, parse_machine_file

FULL = Probes(
    system="Linux",
    start_method="forkserver",
    cpu_count=8,
    affinity=frozenset({0, 1, 2, 7}),
    user_id=1000,
    user_threads=12,
    nofile=(1024, None),
    nproc=(100, 200),
    shm=(4096, 1024),
    memory=(8192, 4096),
    nvml=NvmlAnswer("1", (NvmlDevice(0, "GPU-a", "card", None, (MigInstance("MIG-a", "slice", 5),)),), None),
    own_bytes=77,
    environment={"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": ""},
    problems=("It rains.",),
    about="A machine of this test.",
)


@pytest.mark.parametrize("probes", [FULL, Probes("Windows", "spawn")])
def test_probes_survive_being_written_and_read(tmp_path: Path, probes: Probes) -> None:
    path = tmp_path / "machine.json"
    path.write_text(format_machine_file(probes, {"/a": "/a cannot be read: Permission denied."}))

    assert parse_machine_file(path) == (probes, {"/a": "/a cannot be read: Permission denied."})


def test_a_person_may_write_as_little_as_the_system(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    path.write_text('{"system": "Darwin"}')

    assert parse_machine_file(path) == (Probes("Darwin", "spawn"), {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"cannot be read as JSON"),
        ("[]", r"holds no JSON object"),
        ("{}", r"does not say which 'system'"),
        ('{"system": 3}', r"does not say which 'system'"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "machine.json"
    path.write_text(content)

    with pytest.raises(AutoWorkersError, match=message):
        parse_machine_file(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("affinity", "some"),
        ("affinity", [0, 1]),
        ("cpu_count", "8"),
        ("cpu_count", -1),
        ("own_bytes", True),
        ("nofile", 1024),
        ("nofile", [1024]),
        ("nofile", [1024, "lots"]),
        ("shm", {"total_bytes": 5}),
        ("memory", [1, 2]),
        ("nvml", {"devices": [{"index": 0}]}),
        ("nvml", {"devices": 3}),
        ("environment", {"RANK": 0}),
        ("environment", "RANK=0"),
        ("problems", [1]),
        ("unreadable", ["/a"]),
        ("start_method", 1),
    ],
)
def test_a_wrong_value_is_named_with_its_key(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "machine.json"
    path.write_text(json.dumps({"system": "Linux", key: value}))

    with pytest.raises(AutoWorkersError, match=rf"machine\.json: '{key}' holds .* which is not what belongs there\."):
        parse_machine_file(path)
