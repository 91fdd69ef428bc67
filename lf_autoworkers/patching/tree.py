"""What a source tree holds: which release, and which patches are in which of its files.

Answered by checksums of the text alone, never by a version string: a checkout and a release can share one, and a file
edited by hand still carries it. Reads only; ``transaction.py`` writes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from lf_autoworkers.errors import PatchError
from lf_autoworkers.patching.catalogue import PACKAGE_PREFIX, Release
from lf_autoworkers.patching.udiff import inverse, normalised, splice


@dataclass(frozen=True)
class SourceFile:
    """One file that a patch can touch.

    ``raw`` is ``None`` where the file is missing, ``applied`` (the patches in it) is ``None`` where its text is none
    of those in the manifest.
    """

    raw: bytes | None
    applied: frozenset[str] | None

    def describe(self) -> str:
        """``pristine``, ``patched: ...``, ``foreign`` or ``missing``."""
        if self.applied is None:
            return "missing" if self.raw is None else "foreign"
        return f"patched: {', '.join(sorted(self.applied))}" if self.applied else "pristine"


@dataclass(frozen=True)
class Tree:
    """A package directory, the release it is, and the state of every file the release's patches can touch."""

    package: Path
    release: Release
    files: Mapping[str, SourceFile]

    @property
    def foreign(self) -> tuple[str, ...]:
        """The files that are missing or hold a text nobody here knows."""
        return tuple(file for file, source in self.files.items() if source.applied is None)

    def applied(self) -> frozenset[str]:
        """The patches that are in every file they touch."""
        return frozenset(
            name
            for name, patch in self.release.patches.items()
            if all(name in (self.files[file].applied or ()) for file in patch.diffs)
        )

    def begun(self) -> frozenset[str]:
        """The patches that are in at least one file they touch."""
        return frozenset(name for source in self.files.values() for name in source.applied or ())

    def touched(self, names: Iterable[str]) -> tuple[str, ...]:
        """The files that any of ``names`` changes."""
        wanted = frozenset(names)
        return tuple(file for file in self.files if self.release.touching(file) & wanted)

    def with_patches(self, file: str, names: frozenset[str]) -> bytes:
        """The bytes of ``file`` with exactly those of ``names`` in it that touch it; other lines keep their ending.

        Raises ``PatchError`` if the file is foreign, or if the result is not what the manifest says.
        """
        source = self.files[file]
        if source.raw is None or source.applied is None:
            raise PatchError(f"{self.package / file} is {source.describe()}, it cannot be changed.")
        target = names & self.release.touching(file)
        if target == source.applied:
            return source.raw
        released = splice(source.raw, inverse(self.release.edits(file, source.applied)))
        result = splice(released, self.release.edits(file, target))
        if text_digest(result) != self.release.digest(file, target):
            raise PatchError(f"{self.package / file} would not become what the manifest says: the patches are damaged.")
        return result


def read_tree(package: Path, releases: Sequence[Release]) -> Tree:
    """Recognise the release that most files of ``package`` belong to.

    Raises ``PatchError`` if no file is known, or one cannot be read.
    """
    raw = {file: _read(package / file) for file in sorted({file for release in releases for file in release.states})}
    trees = [
        Tree(
            package,
            release,
            {file: SourceFile(raw[file], _lookup(raw[file], states)) for file, states in release.states.items()},
        )
        for release in releases
    ]
    best = max(trees, key=lambda tree: (-len(tree.foreign), len(tree.files)))
    if len(best.foreign) == len(best.files):
        versions = ", ".join(release.version for release in releases)
        raise PatchError(
            f"{package} is none of the LLaMA-Factory releases that there are patches for ({versions}): "
            "all of the files they touch are different."
        )
    return best


def text_digest(raw: bytes) -> str:
    """The sha256 the manifest identifies a text by: of its normalised form."""
    return sha256(normalised(raw)).hexdigest()


def diff_lines(file: str, before: bytes, after: bytes) -> list[str]:
    """A unified diff for people to read, without line ends."""
    old, new = (normalised(raw).decode(errors="replace").removesuffix("\n").split("\n") for raw in (before, after))
    return list(difflib.unified_diff(old, new, f"a/{PACKAGE_PREFIX}{file}", f"b/{PACKAGE_PREFIX}{file}", lineterm=""))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PatchError(f"{path} cannot be read: {error.strerror}.") from error


def _lookup(raw: bytes | None, states: Mapping[str, frozenset[str]]) -> frozenset[str] | None:
    return None if raw is None else states.get(text_digest(raw))
