"""Where facts are read from: this machine, or a directory that describes one.

Covers reading files below a root, remembering every one that was read, and loading a saved machine. Does not know what
the files mean (`cpu`, `memory`, `limits`, `gpu`, `ranks`) nor what else there is to ask (`probes`).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

from .probes import Probes, live_probes
from .saved import MACHINE_FILE, parse_machine_file

# What the kernel answers where a thing does not exist here: no such file, a process that has ended, a controller that
# does not work in a threaded cgroup.
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ESRCH, errno.EOPNOTSUPP}


class Machine:
    """One machine at one moment: each file is read once, and read again only through a new `Machine`.

    Attributes:
        probes: The answers to everything that is no file.
        problems: Sentences on readings that failed though they should have worked, in the order they came up.
        texts: Every file that was read, by its absolute path.
        unreadable: The sentence for every file that is there but could not be read, by its absolute path.
        matches: Every path that `glob` found.
    """

    def __init__(self, root: Path, probes: Probes, unreadable: Mapping[str, str] | None = None) -> None:
        self._root = root
        self._known_unreadable = dict(unreadable or {})
        self._absent: set[str] = set()
        self.probes = probes
        self.problems: list[str] = list(probes.problems)
        self.texts: dict[str, str] = {}
        self.unreadable: dict[str, str] = {}
        self.matches: set[str] = set()

    @classmethod
    def live(cls, root: Path = Path("/")) -> Machine:
        """Return this machine, its files looked up below ``root``."""
        return cls(root, live_probes(root))

    @classmethod
    def load(cls, directory: Path) -> Machine:
        """Return the machine saved in ``directory``.

        Raises:
            AutoWorkersError: The directory holds no machine, or its `machine.json` is not what `save_machine` writes.
        """
        probes, unreadable = parse_machine_file(directory / MACHINE_FILE)
        return cls(directory, probes, unreadable)

    def read_text(self, path: str) -> str | None:
        """Return the text of the file at the absolute POSIX path ``path``, or ``None``.

        ``None`` for a file that is not there, and for one that is there but cannot be read; the latter also adds a
        sentence to `problems`.
        """
        if path in self.texts:
            return self.texts[path]
        if path in self._absent or path in self.unreadable:
            return None
        try:
            if path in self._known_unreadable:
                raise ValueError(self._known_unreadable[path])
            text = (self._root / path.lstrip("/")).read_bytes().decode()
        except UnicodeDecodeError:
            self._mark_unreadable(path, f"{path} does not hold text.")
        except ValueError as error:
            self._mark_unreadable(path, str(error))
        except OSError as error:
            if error.errno in _ABSENT:
                self._absent.add(path)
            else:
                self._mark_unreadable(path, f"{path} cannot be read: {error.strerror}.")
        else:
            self.texts[path] = text
            return text
        return None

    def read_number(self, path: str) -> int | None:
        """Return the whole number in ``path``, or ``None`` where there is none; anything else there is a problem."""
        text = self.read_text(path)
        if text is None:
            return None
        try:
            return int(text)
        except ValueError:
            self.misread(path, text)
            return None

    def glob(self, pattern: str) -> tuple[str, ...]:
        """Return the absolute paths that match the absolute ``pattern``, sorted."""
        try:
            found = sorted(
                "/" + path.relative_to(self._root).as_posix() for path in self._root.glob(pattern.lstrip("/"))
            )
        except OSError as error:
            self.problem(f"{pattern} cannot be listed: {error.strerror}.")
            return ()
        self.matches.update(found)
        return tuple(found)

    def environment(self, name: str) -> str | None:
        """Return the environment variable ``name``, one of `probes.ENVIRONMENT_NAMES`."""
        return self.probes.environment.get(name)

    def problem(self, sentence: str) -> None:
        """Remember ``sentence`` once."""
        if sentence not in self.problems:
            self.problems.append(sentence)

    def misread(self, source: str, text: str) -> None:
        """Remember that ``source`` holds ``text``, which is not what belongs there."""
        shown = text.strip().replace("\n", " ")
        self.problem(f"{source} holds {shown[:40]!r}, which could not be understood.")

    def _mark_unreadable(self, path: str, sentence: str) -> None:
        self.unreadable[path] = sentence
        self.problem(sentence)
