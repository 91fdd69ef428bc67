"""Trees that another version of lf-autoworkers patched: their files are in no manifest of this one.

The record knows what was made of each file and what it was before, so they are not foreign. Covers recognising them
and putting the originals back; ``commands.py`` then applies this version's patches.
"""

from __future__ import annotations

from collections.abc import Sequence

from lf_autoworkers.patching.catalogue import Release
from lf_autoworkers.patching.store import Record, Store, raw_digest
from lf_autoworkers.patching.transaction import replace_files
from lf_autoworkers.patching.tree import text_digest


def find_outdated(store: Store, releases: Sequence[Release]) -> Record | None:
    """The record of a tree that holds a file as another version's patches left it, if its originals are all there."""
    record = store.record()
    if record is None:
        return None
    known = {digest for release in releases for states in release.states.values() for digest in states}
    unknown = any(text_digest(raw) not in known for raw in _as_left(store, record).values())
    complete = all(store.blob(digest) is not None for digest in record.originals.values())
    return record if unknown and complete else None


def restore(store: Store, record: Record) -> None:
    """Put the originals back wherever the file still is what the patches made of it.

    Must be called with the store's lock held. Raises ``PatchError`` with the tree as it was if one cannot be written.
    """
    before = _as_left(store, record)
    saved = {file: store.blob(record.originals[file]) for file in before}
    after = {file: raw for file, raw in saved.items() if raw is not None}
    replace_files(store, before, after, Record(record.package, record.release, ()))


def sentence(record: Record) -> str:
    """What was found and what to do."""
    return (
        f"The patches {', '.join(record.patches)} in {record.package} are those of another version of lf-autoworkers: "
        "`lf-autoworkers patch apply` brings them up to date, `revert` takes them out."
    )


def _as_left(store: Store, record: Record) -> dict[str, bytes]:
    """The files that nobody has changed since they were patched."""
    found: dict[str, bytes] = {}
    for file in record.originals.keys() & record.results.keys():
        try:
            raw = (store.package / file).read_bytes()
        except OSError:
            continue
        if raw_digest(raw) == record.results[file]:
            found[file] = raw
    return found
