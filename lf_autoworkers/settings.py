"""The table of LF_AUTOWORKERS_* variables, and the one parser that reads them.

`VARIABLES` is the only place that names a variable, its values and its meaning: `read_settings` parses by it,
`docs/environment.md` and ``lf-autoworkers --help`` are printed from it. What a setting does is decided elsewhere.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lf_autoworkers.errors import SettingError
from lf_autoworkers.units import parse_size

PREFIX = "LF_AUTOWORKERS_"
MAX_WORKERS = 1024
MAX_CPUS = 65536

GuardMode = Literal["off", "observe", "on"]
type_of_value = bool | int | float | str | Path | None


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment asks for; the defaults are what an empty environment means.

    Attributes:
        disable: ``auto`` becomes LLaMA-Factory's own default and nothing else happens.
        dataloader_num_workers: Workers per rank in place of the plan's, 0 or more.
        preprocessing_num_workers: Processes per node in place of the plan's, 1 or more.
        cpus: CPUs of this node in place of the detected ones; may be a fraction.
        memory_limit_bytes: Memory limit in place of the detected one; the run-time guard keeps to the lower of both.
        memory_reserve_bytes: Bytes the plan leaves alone; ``None`` for the plan's own reserve.
        shm_bytes: Size of /dev/shm in place of the detected one.
        local_world_size: Training processes on this node, where no launcher says so.
        modality: ``text``, ``image``, ``video`` or ``audio`` in place of looking at the datasets.
        elastic: Whether the worker count may change while the run lasts.
        guard: ``on`` acts, ``observe`` only says what it would do, ``off`` does not look.
        history: Folder for what runs learned; ``None`` for the default one.
        history_off: Neither read nor write what runs learned.
        strict: A failure of ours stops the run instead of falling back to safe numbers.
        log: ``debug`` adds the whole explanation to the log.
    """

    disable: bool = False
    dataloader_num_workers: int | None = None
    preprocessing_num_workers: int | None = None
    cpus: float | None = None
    memory_limit_bytes: int | None = None
    memory_reserve_bytes: int | None = None
    shm_bytes: int | None = None
    local_world_size: int | None = None
    modality: str | None = None
    elastic: bool = True
    guard: GuardMode = "on"
    history: Path | None = None
    history_off: bool = False
    strict: bool = False
    log: str = "info"


@dataclass(frozen=True, slots=True)
class Variable:
    """One row of the table.

    Attributes:
        suffix: The name after ``LF_AUTOWORKERS_``.
        field: The `Settings` attribute it fills.
        allowed: What it may hold, as the error message and the docs say it.
        default: What an unset variable means, in words.
        meaning: One sentence for the docs.
        parse: Turns the text into the value; raises ``ValueError`` for anything not allowed.
    """

    suffix: str
    field: str
    allowed: str
    default: str
    meaning: str
    parse: Callable[[str], type_of_value]

    @property
    def name(self) -> str:
        """The whole name of the variable."""
        return PREFIX + self.suffix


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,9}", text) is None or not low <= int(text) <= high:
            raise ValueError(text)
        return int(text)

    return parse


def _cpus(text: str) -> float:
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) is None or not 0 < float(text) <= MAX_CPUS:
        raise ValueError(text)
    return float(text)


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(text)
        return text.lower()

    return parse


def _switch(text: str) -> bool:
    word = text.lower()
    if word in ("1", "on", "true", "yes"):
        return True
    if word in ("0", "off", "false", "no"):
        return False
    raise ValueError(text)


_WORKERS = f"a whole number from {{low}} to {MAX_WORKERS}"
_SIZE = "a size such as 16GiB"
_SWITCH = "1 or 0 (also on/off, true/false, yes/no)"

VARIABLES: tuple[Variable, ...] = (
    Variable(
        "DISABLE",
        "disable",
        _SWITCH,
        "0",
        "`auto` becomes LLaMA-Factory's own default (0 loader workers, 1 under "
        "streaming; one preprocessing process) and nothing else of the plugin is active.",
        _switch,
    ),
    Variable(
        "DATALOADER_NUM_WORKERS",
        "dataloader_num_workers",
        _WORKERS.format(low=0),
        "the plan decides",
        "The number for `dataloader_num_workers: auto`, per rank.",
        _whole(0, MAX_WORKERS),
    ),
    Variable(
        "PREPROCESSING_NUM_WORKERS",
        "preprocessing_num_workers",
        _WORKERS.format(low=1),
        "the plan decides",
        "The number for `preprocessing_num_workers: auto`, per node.",
        _whole(1, MAX_WORKERS),
    ),
    Variable(
        "CPUS",
        "cpus",
        f"a number above 0, at most {MAX_CPUS}",
        "detected",
        "CPUs of this node, in place of the detected ones.",
        _cpus,
    ),
    Variable(
        "MEMORY_LIMIT",
        "memory_limit_bytes",
        _SIZE,
        "detected",
        "Memory limit, in place of the detected one. While the run lasts the guard keeps to the lower of this and "
        "the real limits.",
        parse_size,
    ),
    Variable(
        "MEMORY_RESERVE",
        "memory_reserve_bytes",
        _SIZE,
        "a tenth, at least 512 MiB",
        "Memory the plan leaves untouched.",
        parse_size,
    ),
    Variable("SHM", "shm_bytes", _SIZE, "detected", "Size of /dev/shm, in place of the detected one.", parse_size),
    Variable(
        "LOCAL_WORLD_SIZE",
        "local_world_size",
        _WORKERS.format(low=1),
        "LOCAL_WORLD_SIZE, else found out",
        "Training processes on this node, for launchers that do not say.",
        _whole(1, MAX_WORKERS),
    ),
    Variable(
        "MODALITY",
        "modality",
        "text, image, video or audio",
        "found out",
        "What the datasets hold, in place of looking.",
        _choice("text", "image", "video", "audio"),
    ),
    Variable(
        "ELASTIC",
        "elastic",
        "on or off (also 1/0, true/false, yes/no)",
        "on",
        "Whether the number of workers may change while the run lasts; off keeps PyTorch's own loader.",
        _switch,
    ),
    Variable(
        "GUARD",
        "guard",
        "off, observe or on",
        "on",
        "The memory guard: act, only say what it would do, or do not look.",
        _choice("off", "observe", "on"),
    ),
    Variable(
        "HISTORY",
        "history",
        "a folder, or off",
        "$XDG_STATE_HOME/lf-autoworkers",
        "Where runs keep what they learned for the next one.",
        Path,
    ),
    Variable(
        "STRICT",
        "strict",
        _SWITCH,
        "0",
        "A failure of the plugin stops the run instead of falling back to safe numbers (for CI).",
        _switch,
    ),
    Variable(
        "LOG",
        "log",
        "info or debug",
        "info",
        "debug adds the whole explanation to the training log.",
        _choice("info", "debug"),
    ),
)


@dataclass(frozen=True, slots=True)
class EnvironmentReading:
    """What the environment said.

    Attributes:
        settings: Every value that could be read; the default for each that could not.
        errors: One error for each variable with a value that is not allowed.
        unknown: One sentence for each LF_AUTOWORKERS_* variable that does not exist.
    """

    settings: Settings
    errors: tuple[SettingError, ...] = ()
    unknown: tuple[str, ...] = ()


def read_settings(environ: Mapping[str, str]) -> EnvironmentReading:
    """Read every LF_AUTOWORKERS_* variable of ``environ``; never raises. An empty value means unset."""
    values: dict[str, type_of_value] = {}
    errors: list[SettingError] = []
    for variable in VARIABLES:
        text = environ.get(variable.name, "").strip()
        if not text:
            continue
        if variable.field == "history" and text.lower() == "off":
            values["history_off"] = True
            continue
        try:
            values[variable.field] = variable.parse(text)
        except ValueError:
            errors.append(SettingError(f"{variable.name}={text} is not allowed: it takes {variable.allowed}."))
    known = {variable.name for variable in VARIABLES}
    unknown = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            unknown.append(
                f"{name} is not a variable of lf-autoworkers" + (f"; did you mean {near[0]}?" if near else ".")
            )
    return EnvironmentReading(Settings(**values), tuple(errors), tuple(unknown))  # type: ignore[arg-type]


def environment_table() -> str:
    """Return the table of variables as GitHub Markdown (what ``docs/environment.md`` holds)."""
    rows = ["| Variable | Takes | Unset means | Meaning |", "| --- | --- | --- | --- |"]
    rows += [f"| `{v.name}` | {v.allowed} | {v.default} | {v.meaning} |" for v in VARIABLES]
    return "\n".join(rows) + "\n"
