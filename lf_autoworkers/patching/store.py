"""What is remembered about a patched tree, in the user's state directory and never in the tree itself.

    $XDG_STATE_HOME/lf-autoworkers/patches/<key of the package directory>/
        lock              held while a command works on the tree
        record.json       which patches were applied, and what the originals were
        transaction.json  only while files are being replaced
        blobs/<sha256>    the bytes of replaced files

In site-packages it would survive an uninstall. Covers reading and writing these files, atomically; what they mean for
the tree is ``transaction.py``'s business.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

from lf_autoworkers.errors import PatchError
from lf_autoworkers.history import default_folder


@dataclass(frozen=True)
class Record:
    """The patches that were applied to a tree.

    ``originals`` and ``results`` map each touched file to the sha256 of its raw bytes before and after.
    """

    package: str
    release: str
    patches: tuple[str, ...]
    originals: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Replacement:
    """One file of a running transaction: sha256 of its raw bytes before and after."""

    file: str
    before: str
    after: str


@dataclass(frozen=True)
class Transaction:
    """A change of several files that was begun, and the record to write once all of them are done."""

    replacements: tuple[Replacement, ...]
    record: Record


class Store:
    """The state directory of one package directory. Every method that fails raises ``PatchError``."""

    def __init__(self, package: Path, root: Path | None = None) -> None:
        key = sha256(os.fsencode(package)).hexdigest()[:16]
        self.package = package
        self.directory = (root or state_root()) / "patches" / key

    def exists(self) -> bool:
        """Whether anything was ever written for this package."""
        return self.directory.is_dir()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other commands off the tree; the kernel lets go of it when this process ends, however it ends."""
        with self._writing():
            self.directory.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PatchError(
                    f"Another `lf-autoworkers patch` is at work on {self.package}: try again when it is done."
                ) from None
            yield
        finally:
            os.close(handle)

    def record(self) -> Record | None:
        """What was applied, as far as this user knows."""
        content = self._read("record.json")
        return None if content is None else self._parse_record(content, "record.json")

    def write_record(self, record: Record) -> None:
        """Remember ``record``, or forget the tree's patches if it holds none."""
        with self._writing():
            if record.patches:
                self._write("record.json", asdict(record))
            else:
                (self.directory / "record.json").unlink(missing_ok=True)

    def transaction(self) -> Transaction | None:
        """The transaction that was begun and not ended."""
        content = self._read("transaction.json")
        if content is None:
            return None
        match content:
            case {"replacements": list(entries), "record": record} if all(map(_is_replacement, entries)):
                replacements = tuple(Replacement(**entry) for entry in entries)
                return Transaction(replacements, self._parse_record(record, "transaction.json"))
        raise self._unreadable("transaction.json")

    def begin(self, transaction: Transaction) -> None:
        """Announce ``transaction``; its blobs must have been saved."""
        with self._writing():
            self._write("transaction.json", asdict(transaction))

    def end(self) -> None:
        """Forget the running transaction."""
        with self._writing():
            (self.directory / "transaction.json").unlink(missing_ok=True)
            sync_directory(self.directory)

    def save_blob(self, raw: bytes) -> str:
        """Keep ``raw`` on disk and return its sha256."""
        digest = raw_digest(raw)
        path = self.directory / "blobs" / digest
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                write_atomically(path, raw, 0o600)
        return digest

    def blob(self, digest: str) -> bytes | None:
        """The bytes saved under ``digest``; ``None`` if they are gone or no longer those bytes."""
        try:
            raw = (self.directory / "blobs" / digest).read_bytes()
        except OSError:
            return None
        return raw if raw_digest(raw) == digest else None

    def keep_blobs(self, digests: frozenset[str]) -> None:
        """Drop the blobs that are not in ``digests``."""
        with self._writing():
            for path in self.directory.glob("blobs/*"):
                if path.name not in digests:
                    path.unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, object] | None:
        try:
            content = json.loads((self.directory / name).read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise self._unreadable(name) from error
        if not isinstance(content, dict):
            raise self._unreadable(name)
        return content

    def _parse_record(self, content: object, name: str) -> Record:
        match content:
            case {
                "package": str(package),
                "release": str(release),
                "patches": list(patches),
                "originals": dict(originals),
                "results": dict(results),
            }:
                digests = ({str(file): str(digest) for file, digest in saved.items()} for saved in (originals, results))
                return Record(package, release, tuple(map(str, patches)), *digests)
        raise self._unreadable(name)

    def _write(self, name: str, content: object) -> None:
        write_atomically(self.directory / name, json.dumps(content, indent=2).encode() + b"\n", 0o600)

    def _unreadable(self, name: str) -> PatchError:
        return PatchError(
            f"{self.directory / name} cannot be read: install LLaMA-Factory again and delete {self.directory}."
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PatchError(
                f"The state directory {self.directory} cannot be written ({error.strerror}): "
                "set XDG_STATE_HOME to a directory that can."
            ) from error


def _is_replacement(entry: object) -> bool:
    return isinstance(entry, dict) and set(entry) == {"file", "before", "after"}


def state_root() -> Path:
    """The state folder of this user. Raises ``PatchError`` where there is no home folder to put it in."""
    try:
        return default_folder(os.environ)
    except RuntimeError as error:
        raise PatchError("There is no home directory to keep the originals in: set XDG_STATE_HOME.") from error


def raw_digest(raw: bytes) -> str:
    """The sha256 of the bytes as they are."""
    return sha256(raw).hexdigest()


def staging_path(path: Path) -> Path:
    """Where the next content of ``path`` is written before it takes its place."""
    return path.with_name(f".{path.name}.lf-autoworkers")


def stage(path: Path, raw: bytes, mode: int) -> Path:
    """Write and sync ``raw`` beside ``path`` with the permission bits ``mode``. Raises ``OSError``."""
    staged = staging_path(path)
    staged.unlink(missing_ok=True)
    handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(raw)
        file.flush()
        os.fchmod(handle, mode)
        os.fsync(handle)
    return staged


def write_atomically(path: Path, raw: bytes, mode: int) -> None:
    """Give ``path`` the content ``raw`` at once or not at all. Raises ``OSError``."""
    stage(path, raw, mode).replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames and deletions in ``directory`` durable. Raises ``OSError``."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
