"""machine.json, the one file of a saved machine that is no kernel file.

Covers its format in both directions. Does not touch the kernel files beside it (`machine` reads them, `save` writes
them).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lf_autoworkers.errors import AutoWorkersError

from .cpulist import format_cpulist, parse_cpulist
from .nvml import MigInstance, NvmlAnswer, NvmlDevice
from .probes import Probes, Rlimit

MACHINE_FILE = "machine.json"
_UNLIMITED = "unlimited"
T = TypeVar("T")


def format_machine_file(probes: Probes, unreadable: Mapping[str, str]) -> str:
    """Return the text of `machine.json`: JSON, two blanks deep, CPUs as the kernel writes them (``0-95``)."""
    nvml = probes.nvml
    content = {
        "about": probes.about,
        "system": probes.system,
        "start_method": probes.start_method,
        "cpu_count": probes.cpu_count,
        "affinity": None if probes.affinity is None else format_cpulist(probes.affinity),
        "user_id": probes.user_id,
        "user_threads": probes.user_threads,
        "nofile": _rlimit_to_json(probes.nofile),
        "nproc": _rlimit_to_json(probes.nproc),
        "shm": _sizes_to_json(probes.shm, "free_bytes"),
        "memory": _sizes_to_json(probes.memory, "available_bytes"),
        "nvml": {
            "driver": nvml.driver,
            "devices": [
                {
                    "index": device.index,
                    "uuid": device.uuid,
                    "name": device.name,
                    "memory_bytes": device.memory_bytes,
                    "mig": [{"uuid": m.uuid, "name": m.name, "memory_bytes": m.memory_bytes} for m in device.mig],
                }
                for device in nvml.devices
            ],
            "error": nvml.error,
        },
        "own_bytes": probes.own_bytes,
        "environment": dict(sorted(probes.environment.items())),
        "problems": list(probes.problems),
        "unreadable": dict(sorted(unreadable.items())),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def parse_machine_file(path: Path) -> tuple[Probes, dict[str, str]]:
    """Return the probes in ``path``, and the sentence for each file that could not be read on that machine.

    A key that is missing is a question that machine could not answer; only ``system`` must be there.

    Raises:
        AutoWorkersError: The file is missing, is no JSON object, or a key holds something of the wrong kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AutoWorkersError(
            f"{path.parent} holds no {MACHINE_FILE}; `lf-autoworkers doctor --save-machine DIR` writes one."
        ) from None
    except (OSError, ValueError) as error:
        raise AutoWorkersError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise AutoWorkersError(f"{path} holds no JSON object; save the machine again.")

    def get(key: str, read: Callable[[Any], T], default: T) -> T:
        value = content.get(key)
        if value is None:
            return default
        try:
            return read(value)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise AutoWorkersError(f"{path}: {key!r} holds {value!r}, which is not what belongs there.") from error

    if not isinstance(content.get("system"), str):
        raise AutoWorkersError(f"{path} does not say which 'system' (Linux, Darwin or Windows) this machine runs.")
    probes = Probes(
        system=content["system"],
        start_method=get("start_method", _text, "fork" if content["system"] == "Linux" else "spawn"),
        cpu_count=get("cpu_count", _number, None),
        affinity=get("affinity", parse_cpulist, None),
        user_id=get("user_id", _number, None),
        user_threads=get("user_threads", _number, None),
        nofile=get("nofile", _rlimit_from_json, None),
        nproc=get("nproc", _rlimit_from_json, None),
        shm=get("shm", lambda sizes: (_number(sizes["total_bytes"]), _number(sizes["free_bytes"])), None),
        memory=get("memory", lambda sizes: (_number(sizes["total_bytes"]), _number(sizes["available_bytes"])), None),
        nvml=get("nvml", _nvml_from_json, NvmlAnswer()),
        own_bytes=get("own_bytes", _number, 0),
        environment=get("environment", _texts, {}),
        problems=get("problems", lambda sentences: tuple(_text(sentence) for sentence in sentences), ()),
        about=get("about", _text, ""),
    )
    return probes, get("unreadable", _texts, {})


def _rlimit_to_json(limit: Rlimit | None) -> list[int | str] | None:
    return None if limit is None else [_UNLIMITED if value is None else value for value in limit]


def _rlimit_from_json(value: Any) -> Rlimit:
    soft, hard = (None if limit == _UNLIMITED else _number(limit) for limit in value)
    return soft, hard


def _sizes_to_json(sizes: tuple[int, int] | None, second: str) -> dict[str, int] | None:
    return None if sizes is None else {"total_bytes": sizes[0], second: sizes[1]}


def _nvml_from_json(value: Any) -> NvmlAnswer:
    devices = tuple(
        NvmlDevice(
            _number(device["index"]),
            _text(device["uuid"]),
            _text(device["name"]),
            _optional(_number, device.get("memory_bytes")),
            tuple(
                MigInstance(_text(m["uuid"]), _text(m["name"]), _optional(_number, m.get("memory_bytes")))
                for m in device.get("mig", ())
            ),
        )
        for device in value.get("devices", ())
    )
    return NvmlAnswer(_optional(_text, value.get("driver")), devices, _optional(_text, value.get("error")))


def _optional(read: Callable[[Any], T], value: Any) -> T | None:
    return None if value is None else read(value)


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(value)
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _texts(value: Any) -> dict[str, str]:
    return {_text(key): _text(item) for key, item in value.items()}
