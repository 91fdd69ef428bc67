"""The exceptions a user can meet.

    AutoWorkersError (ValueError)
    ├── SettingError        an LF_AUTOWORKERS_* variable holds a value it may not
    ├── ConfigError         a key of the training config, or the config file itself
    ├── DetectionError      the machine could not be read, and LF_AUTOWORKERS_STRICT=1 forbids a guess
    ├── PatchError          the source patches cannot be applied, reverted or read
    └── LoaderError         the elastic loader cannot go on (poisonous batch, workers that never start)

Each message is one or two sentences: what was found, where, what to do. Nothing else of ours is meant to reach a user.
"""

from __future__ import annotations


class AutoWorkersError(ValueError):
    """Base of every error this package raises on purpose; printed without a traceback when nobody catches it."""


class SettingError(AutoWorkersError):
    """An environment variable of ours holds a value that is not allowed."""


class ConfigError(AutoWorkersError):
    """The training config cannot be read, or one of the keys we own holds something that is no worker count."""


class DetectionError(AutoWorkersError):
    """A fact about the machine could not be read while ``LF_AUTOWORKERS_STRICT=1`` was set."""


class PatchError(AutoWorkersError):
    """A source patch cannot be applied, reverted or identified."""


class LoaderError(AutoWorkersError):
    """The elastic loader met something it may not hide."""
