"""Unified diffs as edits of one known text: parsing them and splicing lines, without fuzz and without offsets.

Every hunk speaks of the released file, line by line, so any set of patches whose edits do not overlap can be put on
or taken off in any order. Covers parsing, splicing and the inverse; which text a file holds is ``tree.py``'s question,
writing files is ``transaction.py``'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lf_autoworkers.errors import PatchError

_HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


@dataclass(frozen=True)
class Edit:
    """Replace ``removed`` by ``added`` at line ``start`` (0-based) of the text the edit was made for."""

    start: int
    removed: tuple[bytes, ...]
    added: tuple[bytes, ...]


@dataclass(frozen=True)
class FileDiff:
    """The part of a patch that touches one file.

    ``expected`` holds every line of the released file that the diff shows, context included, by its 0-based number.
    """

    path: str
    edits: tuple[Edit, ...]
    expected: tuple[tuple[int, bytes], ...]


def parse_diff(text: bytes, source: str) -> tuple[FileDiff, ...]:
    """Read the file sections of a unified diff, skipping the prose before the first one.

    ``source`` names the diff in errors. Raises ``PatchError`` if the diff is malformed or does what the patches here
    never do: create or delete a file, or end a file without a newline.
    """
    lines = text.replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n")
    sections: list[FileDiff] = []
    at = 0
    while at < len(lines):
        if not lines[at].startswith(b"--- "):
            at += 1
            continue
        if at + 1 >= len(lines) or not lines[at + 1].startswith(b"+++ b/"):
            raise PatchError(f"{source}, line {at + 2}: a file header must be two lines, `--- a/...` and `+++ b/...`.")
        path = lines[at + 1].removeprefix(b"+++ b/").decode()
        if lines[at] != b"--- a/" + path.encode():
            raise PatchError(f"{source}, line {at + 1}: the patch renames, creates or deletes {path}.")
        at += 2
        edits: list[Edit] = []
        expected: list[tuple[int, bytes]] = []
        while at < len(lines) and lines[at].startswith(b"@@"):
            at = _parse_hunk(lines, at, source, edits, expected)
        sections.append(FileDiff(path, tuple(edits), tuple(expected)))
    if not sections:
        raise PatchError(f"{source} holds no diff.")
    return tuple(sections)


def _parse_hunk(
    lines: Sequence[bytes], at: int, source: str, edits: list[Edit], expected: list[tuple[int, bytes]]
) -> int:
    header = _HUNK.match(lines[at])
    if header is None:
        raise PatchError(f"{source}, line {at + 1}: not a hunk header.")
    old_left, new_left = (int(header[group]) if header[group] is not None else 1 for group in (2, 4))
    # An empty old range names the line before it, any other range its first line.
    position = int(header[1]) - (1 if old_left else 0)
    at += 1
    start, removed, added = position, list[bytes](), list[bytes]()
    while old_left > 0 or new_left > 0:
        if at >= len(lines):
            raise PatchError(f"{source} ends inside a hunk.")
        kind, body = lines[at][:1], lines[at][1:]
        if kind == b"+":
            added.append(body)
            new_left -= 1
        elif kind in (b"-", b" "):
            expected.append((position, body))
            old_left -= 1
            if kind == b"-":
                removed.append(body)
            else:
                new_left -= 1
                if removed or added:
                    edits.append(Edit(start, tuple(removed), tuple(added)))
                    removed, added = [], []
                start = position + 1
            position += 1
        else:
            raise PatchError(f"{source}, line {at + 1}: a hunk line starts with a space, `+` or `-`.")
        at += 1
    rest = lines[at] if at < len(lines) else b""
    if old_left < 0 or new_left < 0 or (rest[:1] in b" +-\\" and rest and not rest.startswith(b"--- ")):
        raise PatchError(f"{source}, line {at + 1}: the hunk does not hold the lines its header counts.")
    if removed or added:
        edits.append(Edit(start, tuple(removed), tuple(added)))
    return at


def merge(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """Order the edits of several patches. Raises ``PatchError`` if two of them touch the same place."""
    ordered = tuple(sorted(edits, key=lambda edit: edit.start))
    for before, after in pairwise(ordered):
        if after.start < before.start + max(len(before.removed), 1):
            raise PatchError(f"Two patches change the released file at line {after.start + 1}.")
    return ordered


def inverse(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """The edits that undo ``edits`` (as ``merge`` returns them), in the numbering of the edited text."""
    undone: list[Edit] = []
    offset = 0
    for edit in edits:
        undone.append(Edit(edit.start + offset, edit.added, edit.removed))
        offset += len(edit.added) - len(edit.removed)
    return tuple(undone)


def splice(raw: bytes, edits: Sequence[Edit]) -> bytes:
    """Apply ``edits`` to a file's bytes.

    Lines left alone keep their own line ending; new ones get the file's usual one. Raises ``PatchError`` if a line
    that is to go is not there.
    """
    lines = raw.split(b"\n")
    carriage_return = b"\r" if raw.count(b"\r\n") * 2 > raw.count(b"\n") else b""
    result: list[bytes] = []
    done = 0
    for edit in edits:
        end = edit.start + len(edit.removed)
        if tuple(line.removesuffix(b"\r") for line in lines[edit.start : end]) != edit.removed:
            raise PatchError(f"Line {edit.start + 1} is not what the patch expects to find there.")
        result += lines[done : edit.start]
        result += [line + carriage_return for line in edit.added]
        done = end
    return b"\n".join(result + lines[done:])


def check_context(text: bytes, diff: FileDiff) -> None:
    """Raise ``PatchError`` unless every line that ``diff`` shows of the released file is in ``text`` where it says."""
    lines = normalised(text).split(b"\n")
    for number, line in diff.expected:
        if number >= len(lines) or lines[number] != line:
            raise PatchError(f"{diff.path}, line {number + 1}: the patch was made for another text.")


def normalised(raw: bytes) -> bytes:
    """The text of a file with Windows line endings turned into plain ones: what the checksums are made of."""
    return raw.replace(b"\r\n", b"\n")
