"""Replacing several files of a tree at once: all of them, or none, also if the process is killed in between.

    save the old bytes -> announce (transaction.json) -> write new files beside the old ones -> rename each
    -> drop stale bytecode -> write the record -> forget the transaction

A file is never written in place: package managers hard-link them to a cache shared by other environments. Whoever
comes next and finds an announcement finishes it if every file is new, and puts the old bytes back otherwise.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from lf_autoworkers.errors import PatchError
from lf_autoworkers.patching.store import (
    Record,
    Replacement,
    Store,
    Transaction,
    raw_digest,
    stage,
    staging_path,
    sync_directory,
    write_atomically,
)


def replace_files(store: Store, before: Mapping[str, bytes], after: Mapping[str, bytes], record: Record) -> None:
    """Give the files of ``store.package`` the contents ``after`` (by relative name) and remember ``record``.

    ``before`` is what they hold now. Must be called with the store's lock held. Raises ``PatchError`` with the tree as
    it was if a file cannot be written.
    """
    replacements = tuple(
        Replacement(file, before=store.save_blob(before[file]), after=raw_digest(raw)) for file, raw in after.items()
    )
    store.begin(Transaction(replacements, record))
    try:
        staged = {
            store.package / file: stage(store.package / file, raw, _mode(store.package / file))
            for file, raw in after.items()
        }
        for path, new in staged.items():
            _keep_owner(path, new)
            new.replace(path)
        for directory in {path.parent for path in staged}:
            sync_directory(directory)
        _finish(store, Transaction(replacements, record))
    except OSError as error:
        _undo(store, Transaction(replacements, record))
        raise PatchError(
            f"{error.filename or store.package} cannot be written ({error.strerror}): nothing was changed."
        ) from error
    except BaseException:
        _undo(store, Transaction(replacements, record))
        raise


def recover(store: Store) -> str | None:
    """Bring a tree whose transaction was interrupted into one state, and say which in a sentence.

    Returns ``None`` if there is nothing to do. Must be called with the store's lock held. A file that somebody else has
    changed since is left as it is. Raises ``PatchError`` if a file cannot be put back.
    """
    transaction = store.transaction()
    if transaction is None:
        return None
    files = ", ".join(entry.file for entry in transaction.replacements)
    if all(_digest(store.package / entry.file) == entry.after for entry in transaction.replacements):
        _finish(store, transaction)
        return f"An interrupted change was complete and is now recorded: {files}."
    _undo(store, transaction)
    return f"An interrupted change was undone: {files}."


def _undo(store: Store, transaction: Transaction) -> None:
    try:
        for entry in transaction.replacements:
            path = store.package / entry.file
            staging_path(path).unlink(missing_ok=True)
            if _digest(path) == entry.after:
                _put_back(store, entry)
    except OSError as error:
        raise PatchError(
            f"An interrupted change cannot be undone: {error.filename} cannot be written ({error.strerror}). "
            f"The old bytes are in {store.directory / 'blobs'}."
        ) from error
    store.end()


def _finish(store: Store, transaction: Transaction) -> None:
    for entry in transaction.replacements:
        _drop_bytecode(store.package / entry.file)
    store.write_record(transaction.record)
    store.end()
    store.keep_blobs(frozenset(transaction.record.originals.values()))


def _put_back(store: Store, entry: Replacement) -> None:
    raw = store.blob(entry.before)
    path = store.package / entry.file
    if raw is None:
        raise PatchError(
            f"An interrupted change cannot be undone, the old bytes of {path} are gone from {store.directory}: "
            f"install LLaMA-Factory again and delete {store.directory}."
        )
    write_atomically(path, raw, _mode(path))
    _drop_bytecode(path)


def _drop_bytecode(path: Path) -> None:
    """Delete compiled forms: those with unchecked hashes would go on running the old source."""
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink(missing_ok=True)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _keep_owner(path: Path, new: Path) -> None:
    """Root must not take files away from their owner; anybody else owns what they write anyway."""
    owner = path.stat()
    if os.geteuid() == 0:
        os.chown(new, owner.st_uid, owner.st_gid)


def _digest(path: Path) -> str | None:
    try:
        return raw_digest(path.read_bytes())
    except OSError:
        return None
