"""A training config as one plain dict, whichever way it came: file, overrides, argument list.

Covers reading and the little that has to be understood of it (is this value ``auto``, is that switch on). It reads
files with OmegaConf, as LLaMA-Factory does. What the values mean for the worker counts is `request`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lf_autoworkers.errors import ConfigError
from lf_autoworkers.plan.decision import (
    LOADER_FIELD,
    PERSISTENT_FIELD,
    PREFETCH_FIELD,
    PREPROCESSING_FIELD,
    V1_LOADER_FIELD,
)

AUTO_FIELDS = (LOADER_FIELD, V1_LOADER_FIELD, PREPROCESSING_FIELD)
"""The keys that may say ``auto``."""


def is_auto(value: object) -> bool:
    """Return whether ``value`` is the word ``auto``, in any case, blanks aside."""
    return isinstance(value, str) and value.strip().lower() == "auto"


def default_count(loader: str, *, streaming: bool) -> int:
    """Return LLaMA-Factory's own loader count: 16 in v1, else 0, which under streaming would be an empty dataset."""
    if loader == V1_LOADER_FIELD:
        return 16
    return 1 if streaming else 0


def default_values(named: Mapping[str, Any], owned: Collection[str]) -> dict[str, int | bool | None]:
    """Return LLaMA-Factory's own defaults for the ``auto`` keys, and what does not go with 0 workers dropped."""
    values: dict[str, int | bool | None] = {}
    if is_auto(named.get(PREPROCESSING_FIELD)) and PREPROCESSING_FIELD in owned:
        values[PREPROCESSING_FIELD] = None
    for name in (V1_LOADER_FIELD, LOADER_FIELD):
        if is_auto(named.get(name)) and name in owned:
            values[name] = default_count(name, streaming=is_on(named.get("streaming")))
    if values.get(LOADER_FIELD) == 0:
        values.update({name: None for name in (PREFETCH_FIELD, PERSISTENT_FIELD) if name in named})
    return values


def is_on(value: object) -> bool:
    """Return whether a switch of a config is on, written as a boolean or as a word."""
    return (isinstance(value, int) and value == 1) or (
        isinstance(value, str) and value.strip().lower() in ("true", "1", "yes", "y", "t", "on")
    )


def whole_number(value: object) -> int | None:
    """Return ``value`` as an int if it is a whole number or the text of one, else ``None``."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return int(value)  # as argparse takes it
    except ValueError:
        return None


def auto_fields(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys of ``arguments`` that say ``auto``, with the word as written.

    Raises:
        ConfigError: One of our keys holds a word that is neither ``auto`` nor a number (``atuo``).
    """
    found = {}
    for name in AUTO_FIELDS:
        value = arguments.get(name)
        if is_auto(value):
            found[name] = str(value)
        elif isinstance(value, list | tuple | dict) or (
            isinstance(value, str) and whole_number(value) is None and value.strip().lower() not in ("", "none", "null")
        ):
            raise ConfigError(f"{name}: {value!r} is no worker count; write auto or a whole number.")
    return found


def read_config(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the config at ``path`` with ``key=value`` overrides applied, as LLaMA-Factory would read it.

    Raises:
        ConfigError: There is no such file, it cannot be parsed, or it holds no mapping.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"{override!r} is no override; write key=value.")
    try:
        if path.suffix == ".json":
            loaded = OmegaConf.create(json.loads(path.read_text(encoding="utf-8")))
        else:
            loaded = OmegaConf.load(path)
        if not OmegaConf.is_dict(loaded):
            raise ConfigError(f"{path} holds no mapping of arguments.")
        merged = OmegaConf.merge(loaded, OmegaConf.from_cli(list(overrides)))
        config = OmegaConf.to_container(merged, resolve=True)
    except ConfigError:
        raise
    except FileNotFoundError as error:
        raise ConfigError(f"There is no config file {path}.") from error
    except (OSError, UnicodeDecodeError, ValueError, YAMLError, OmegaConfBaseException) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{path} cannot be read as a config: {first}.") from error
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def arguments_of(tokens: Sequence[str]) -> dict[str, Any]:
    """Return an argument list as the dict a config file would have been: ``--a-b 1`` is ``{"a_b": "1"}``.

    Several values give a list, none gives ``True``; the last mention of a key wins, as in argparse.
    """
    values: dict[str, list[str]] = {}
    name = None
    for token in tokens:
        if token.startswith("--"):
            flag, equals, value = token[2:].partition("=")
            name = flag.replace("-", "_")
            values[name] = [value] if equals else []
        elif name is not None:
            values[name].append(token)
    return {name: True if not given else given[0] if len(given) == 1 else given for name, given in values.items()}


def replace_in_tokens(
    tokens: Sequence[str], options: Mapping[str, str], values: Mapping[str, int | bool | None]
) -> list[str]:
    """Return ``tokens`` with the given arguments set; one whose new value is ``None`` is left out.

    Args:
        tokens: The argument list.
        options: Each option string the parser knows, with the argument it sets; abbreviations are found by prefix.
        values: New values by argument. Those not mentioned in ``tokens`` are added.
    """
    kept: list[str] = []
    dropping = False
    for token in tokens:
        if token.startswith("--"):
            dropping = named_argument(token, options) in values
        if not dropping:
            kept.append(token)
    for name, value in values.items():
        if value is not None:
            kept += [f"--{name}", str(value)]
    return kept


def named_argument(token: str, options: Mapping[str, str]) -> str | None:
    """Return the argument that ``token`` (``--dashed-flag``, ``--flag=1``, ``--fla``) sets, as argparse reads it."""
    flag = token.partition("=")[0]
    if flag in options:
        return options[flag]
    meant = {name for option, name in options.items() if option.startswith(flag)}
    return meant.pop() if len(meant) == 1 else None
