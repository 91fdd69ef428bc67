"""The hook's work: rewrite ``auto`` in what LLaMA-Factory's parser was given, before any dataclass is built.

Covers which parsers are LLaMA-Factory's, copying (the caller's dict is never changed), deciding once for the same
arguments, and what happens when something of ours fails. `parser_hook` calls it, and so does the source patch
``native-auto``. What the numbers are is `resolve`'s business, what a run does beside them `run`'s.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeAlias

from lf_autoworkers.adapter import run
from lf_autoworkers.adapter.config import (
    AUTO_FIELDS,
    arguments_of,
    auto_fields,
    default_values,
    is_auto,
    named_argument,
    replace_in_tokens,
)
from lf_autoworkers.adapter.resolve import Resolution, resolve
from lf_autoworkers.errors import AutoWorkersError, DetectionError
from lf_autoworkers.hardware import Machine
from lf_autoworkers.plan.decision import (
    LOADER_FIELD,
    PERSISTENT_FIELD,
    PREFETCH_FIELD,
    V1_LOADER_FIELD,
)
from lf_autoworkers.settings import PREFIX, EnvironmentReading, Settings, read_settings

Arguments: TypeAlias = dict[str, Any] | list[str]
Values: TypeAlias = dict[str, int | bool | None]

_latest: tuple[str, Values, Arguments] | None = None
"""What was decided last: for which arguments, what, and what the parser was given. Forgotten once a run has begun."""


def rewrite(parser: Any, arguments: Arguments) -> Arguments:
    """Return ``arguments`` with every ``auto`` of ours replaced by a number; the same object if there is none.

    Idempotent: what it returns holds no ``auto``. Apart from the errors below it never raises: if something of ours
    breaks, ``auto`` becomes LLaMA-Factory's own default and one warning says so.

    Args:
        parser: A ``transformers.HfArgumentParser``.
        arguments: The dict or the argument list it was given; not changed.

    Raises:
        ConfigError: One of our keys holds a word that is neither ``auto`` nor a number.
        SettingError: There is an ``auto`` to resolve and an LF_AUTOWORKERS_* variable holds what it may not.
        DetectionError: Something failed and ``LF_AUTOWORKERS_STRICT=1`` is set.
    """
    owned = _owned(parser)
    if owned is None:
        return arguments
    reading = EnvironmentReading(Settings())
    try:
        reading = read_settings(os.environ)
        return _rewrite(parser, arguments, owned, reading)
    except AutoWorkersError:
        _print_plainly()
        raise
    except Exception as error:
        if reading.settings.strict:
            _print_plainly()
            raise DetectionError(f"Resolving auto failed ({type(error).__name__}: {error}).") from error
        named = arguments if isinstance(arguments, dict) else arguments_of(arguments)
        values = default_values(named, owned)
        run.say_failure("resolving auto", error, ", ".join(f"{name} -> {value}" for name, value in values.items()))
        return _with_values(parser, arguments, values)


def _owned(parser: Any) -> frozenset[str] | None:
    """Return the arguments ``parser`` knows if it is one of LLaMA-Factory's that has a key of ours, else ``None``."""
    names: set[str] = set()
    ours = False
    for kind in getattr(parser, "dataclass_types", ()):
        fields = getattr(kind, "__dataclass_fields__", {})
        names.update(fields)
        module = getattr(kind, "__module__", "")
        ours = ours or (module.partition(".")[0] == "llamafactory" and not names.isdisjoint(AUTO_FIELDS))
    return frozenset(names) if ours else None


def _rewrite(parser: Any, arguments: Arguments, owned: frozenset[str], reading: EnvironmentReading) -> Arguments:
    global _latest
    named = dict(arguments) if isinstance(arguments, dict) else _by_full_name(parser, arguments)
    autos = {name: word for name, word in named.items() if name in AUTO_FIELDS and name in owned and is_auto(word)}
    if reading.settings.disable:
        return _with_values(parser, arguments, default_values(named, owned)) if autos else arguments
    auto_fields({name: named[name] for name in AUTO_FIELDS if name in named and name in owned})  # stops at a typo
    trains = LOADER_FIELD in owned or V1_LOADER_FIELD in owned
    if not autos:
        if trains and not (run.is_armed() and _latest is not None and arguments == _latest[2]):
            run.end()
            run.say_ignored(reading, named)
        return arguments
    if reading.errors:
        raise reading.errors[0]
    key = repr((named, sorted(owned), sorted(_ours(os.environ).items())))
    if _latest is not None and _latest[0] == key and run.is_armed() and not run.has_begun():
        return _with_values(parser, arguments, _latest[1])  # parsed twice for one run: decided and said once
    values = _decide(named, owned, reading)
    _latest = (key, values, _with_values(parser, arguments, values)) if trains else _latest
    return _with_values(parser, arguments, values)


def _decide(named: Mapping[str, Any], owned: frozenset[str], reading: EnvironmentReading) -> Values:
    """Resolve, tell the log, and let `run` prepare what must hold while the run lasts."""
    resolution: Resolution = resolve(named, owned, reading.settings, Machine.live())
    run.begin(resolution, named)
    run.say(resolution, reading, named)
    return {decision.field: decision.value for decision in resolution.plan.decisions}


def _with_values(parser: Any, arguments: Arguments, values: Values) -> Arguments:
    """Return a copy of ``arguments`` with ``values`` in it."""
    if not isinstance(arguments, dict):
        return replace_in_tokens(arguments, _options(parser), values)
    rewritten = dict(arguments)
    for name, value in values.items():
        if value is None and name in (PREFETCH_FIELD, PERSISTENT_FIELD):
            rewritten.pop(name, None)
        else:
            rewritten[name] = value
    return rewritten


def _options(parser: Any) -> dict[str, str]:
    return {option: action.dest for option, action in parser._option_string_actions.items() if option.startswith("--")}


def _by_full_name(parser: Any, tokens: Sequence[str]) -> dict[str, Any]:
    """Return the argument list as a dict, abbreviated flags under the argument they mean."""
    options = _options(parser)
    return {named_argument("--" + name, options) or name: value for name, value in arguments_of(tokens).items()}


def _ours(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(PREFIX)}


def _print_plainly() -> None:
    """Let an error of ours that nobody catches end the process with its sentence alone, and exit code 1."""
    if getattr(sys.excepthook, "__module__", "") == __name__:
        return
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, AutoWorkersError):
            print(f"lf-autoworkers: {error}", file=sys.stderr)  # noqa: T201
        else:
            previous(kind, error, trace)

    sys.excepthook = hook
