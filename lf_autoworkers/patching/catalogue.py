"""The patches this package carries: one folder a release of LLaMA-Factory, and one manifest of checksums for all.

    patches/<release>/<name>.patch   header (title, why, `Upstream:`, `Requires:`), then a unified diff
    patches/manifest.json            {release: {file: {set of patches: sha256 of the text with plain newlines}}}

Files are named relative to the ``llamafactory`` package. A set of patches is written ``a+b`` in alphabetical order,
the empty one ``pristine``; the manifest lists every set of the patches that touch a file, so a checksum alone says
which release a file is from and what was done to it. ``scripts/seal_patches.py`` writes it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lf_autoworkers.errors import PatchError
from lf_autoworkers.patching.udiff import Edit, FileDiff, merge, parse_diff

#: What the paths inside the diffs start with: they are made for `git apply` in a checkout of LLaMA-Factory.
PACKAGE_PREFIX = "src/llamafactory/"
_PRISTINE = "pristine"


@dataclass(frozen=True)
class Patch:
    """One concern, for one release."""

    name: str
    title: str
    requires: tuple[str, ...]
    diffs: Mapping[str, FileDiff]


@dataclass(frozen=True)
class Release:
    """The patches for one release, and the checksums of every state its files can be in.

    ``states`` maps a file to {sha256 of the normalised text: names of the patches in it}.
    """

    version: str
    patches: Mapping[str, Patch]
    states: Mapping[str, Mapping[str, frozenset[str]]]

    def edits(self, file: str, names: Iterable[str]) -> tuple[Edit, ...]:
        """What turns the released ``file`` into the one with the patches ``names``."""
        diffs = [self.patches[name].diffs[file] for name in names if file in self.patches[name].diffs]
        return merge(edit for diff in diffs for edit in diff.edits)

    def digest(self, file: str, names: frozenset[str]) -> str:
        """The checksum of ``file`` with exactly the patches ``names`` in it."""
        for digest, state in self.states[file].items():
            if state == names:
                return digest
        raise PatchError(f"The manifest has no checksum for {file} with {state_key(names)}.")

    def touching(self, file: str) -> frozenset[str]:
        """The patches that change ``file``."""
        return frozenset(name for name, patch in self.patches.items() if file in patch.diffs)

    def with_required(self, names: Iterable[str]) -> frozenset[str]:
        """``names`` and everything they need."""
        return _closure(names, {name: patch.requires for name, patch in self.patches.items()})

    def with_dependents(self, names: Iterable[str]) -> frozenset[str]:
        """``names`` and everything that needs them."""
        needed_by = {
            name: tuple(other.name for other in self.patches.values() if name in other.requires)
            for name in self.patches
        }
        return _closure(names, needed_by)


def patches_directory() -> Path:
    """Where the patches lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "_patches", package.parent / "patches"):
        if (candidate / "manifest.json").is_file():
            return candidate
    raise PatchError(
        f"The patches are missing from {package}: install lf-autoworkers again, from a wheel or a whole checkout."
    )


def load_releases(directory: Path | None = None) -> tuple[Release, ...]:
    """Every release there are patches for, oldest first. Raises ``PatchError`` if the patches cannot be read."""
    directory = directory or patches_directory()
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
        return tuple(
            Release(
                version,
                load_patches(directory / version),
                {file: {digest: _parse_key(key) for key, digest in digests.items()} for file, digests in files.items()},
            )
            for version, files in sorted(manifest.items())
        )
    except (OSError, ValueError, AttributeError) as error:
        raise PatchError(f"The patches in {directory} cannot be read: {error}") from error


def load_patches(folder: Path) -> dict[str, Patch]:
    """Read the patches of one release by name. Raises ``PatchError`` or ``OSError``."""
    patches: dict[str, Patch] = {}
    for path in sorted(folder.glob("*.patch")):
        raw = path.read_bytes()
        header = raw.partition(b"\n--- ")[0].decode()
        requires = [line.partition(":")[2].split(",") for line in header.splitlines() if line.startswith("Requires:")]
        diffs: dict[str, FileDiff] = {}
        for diff in parse_diff(raw, f"{folder.name}/{path.name}"):
            if not diff.path.startswith(PACKAGE_PREFIX):
                raise PatchError(f"{folder.name}/{path.name} changes {diff.path}, outside {PACKAGE_PREFIX}.")
            diffs[str(PurePosixPath(diff.path).relative_to(PACKAGE_PREFIX))] = diff
        patches[path.stem] = Patch(
            name=path.stem,
            title=header.splitlines()[0],
            requires=tuple(sorted(name.strip() for names in requires for name in names)),
            diffs=diffs,
        )
    return patches


def state_key(names: frozenset[str]) -> str:
    """How the manifest writes a set of patches."""
    return "+".join(sorted(names)) or _PRISTINE


def every_state(names: Iterable[str]) -> Iterator[frozenset[str]]:
    """All sets of the patches ``names``, the empty one first."""
    ordered = sorted(names)
    for size in range(len(ordered) + 1):
        yield from map(frozenset, itertools.combinations(ordered, size))


def _parse_key(key: str) -> frozenset[str]:
    return frozenset[str]() if key == _PRISTINE else frozenset(key.split("+"))


def _closure(names: Iterable[str], edges: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += edges[name]
    return frozenset(found)
