"""What ``lf-autoworkers patch`` does: status, apply, revert, diff, and doctor's question about lost patches.

Each takes plain arguments, decides before anything is written, and returns the lines to print with an exit code. What
cannot be done is a ``PatchError`` with the way out, and the tree is as it was. Argv and printing are ``cli.py``'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lf_autoworkers.errors import PatchError
from lf_autoworkers.patching import outdated
from lf_autoworkers.patching.catalogue import Release, load_releases
from lf_autoworkers.patching.locate import find_package, uncommitted
from lf_autoworkers.patching.store import Record, Store, raw_digest
from lf_autoworkers.patching.transaction import recover, replace_files
from lf_autoworkers.patching.tree import Tree, diff_lines, read_tree, text_digest


@dataclass(frozen=True)
class Outcome:
    """The lines a command prints, and its exit code: 0 fine, 1 a finding."""

    text: tuple[str, ...]
    exit_code: int = 0


@dataclass(frozen=True)
class LostPatches:
    """Patches that were applied to ``package`` and are not in it any more, as after an upgrade of LLaMA-Factory.

    ``release_now`` is ``None`` if there are no patches for what is installed now, and ``another_version`` is true if
    they are there, but as another version of lf-autoworkers applied them.
    """

    names: tuple[str, ...]
    package: Path
    release_then: str
    release_now: str | None
    another_version: bool = False

    def sentence(self) -> str:
        """What was lost and what to do."""
        if self.another_version:
            return outdated.sentence(Record(str(self.package), self.release_then, self.names))
        names = " ".join(self.names)
        lost = f"The patches {', '.join(self.names)}, applied to LLaMA-Factory {self.release_then}, are gone"
        if self.release_now is None:
            return f"{lost}: {self.package} holds other files now, which there are no patches for."
        return f"{lost} from {self.package}, which is {self.release_now} now: lf-autoworkers patch apply {names}"


def status(path: str | Path | None = None) -> Outcome:
    """Say which patches are in the tree and the state of each file; repair an interrupted change first.

    ``path`` is a checkout, its ``src`` or the package; ``None`` the installed LLaMA-Factory. Exit code 1 if a file is
    foreign, a patch is only half there, or one that was applied is lost. Raises ``PatchError``.
    """
    package = find_package(path)
    store = Store(package)
    repaired: str | None = None
    if store.transaction() is not None:
        with store.lock():
            repaired = recover(store)
    lines = [repaired] if repaired else []
    releases = load_releases()
    old = outdated.find_outdated(store, releases)
    if old is not None:
        return Outcome((*lines, f"LLaMA-Factory {old.release} in {package}", outdated.sentence(old)), 1)
    tree = read_tree(package, releases)
    applied, begun = tree.applied(), tree.begun()
    lines.append(f"LLaMA-Factory {tree.release.version} in {package}")
    for name, patch in tree.release.patches.items():
        state = "applied" if name in applied else "half" if name in begun else "-"
        lines.append(f"  {name:<18} {state:<8} {patch.title}")
    lines += [f"  {file:<28} {source.describe()}" for file, source in tree.files.items()]
    findings: list[str] = []
    if tree.foreign:
        findings.append(_foreign_sentence(tree, tree.foreign))
    if begun - applied:
        findings.append(
            f"Only in some of their files: {', '.join(sorted(begun - applied))}. `lf-autoworkers patch apply` or "
            "`revert` with their names puts that right."
        )
    lost = lost_patches(package)
    if lost is not None:
        findings.append(lost.sentence())
    return Outcome((*lines, *findings), 1 if findings else 0)


def apply(names: Sequence[str] = (), path: str | Path | None = None, *, dry_run: bool = False) -> Outcome:
    """Put the patches ``names`` (all, if there are none) and what they require into the tree.

    Exit code 0, also if they are in it already. Raises ``PatchError`` and changes nothing if a file is foreign, holds
    work that is not committed, or cannot be written.
    """
    with _opened(path, dry_run=dry_run) as (tree, store, repaired):
        wanted = tree.release.with_required(_known(tree, names) or tree.release.patches)
        missing = wanted - tree.applied()
        if not missing:
            _remember(tree, store, dry_run=dry_run)
            return Outcome((*repaired, f"Already applied: {', '.join(sorted(wanted))}."))
        _require_clean(tree, missing)
        lines = _change(tree, store, added=missing, removed=frozenset(), dry_run=dry_run)
        return Outcome((*repaired, *lines))


def revert(names: Sequence[str] = (), path: str | Path | None = None, *, dry_run: bool = False) -> Outcome:
    """Take the patches ``names`` (all, if there are none) and what requires them out of the tree.

    Exit code 0, also if they are not in it. Without other patches in a file it is the original again, byte for byte.
    Raises ``PatchError`` and changes nothing if a file is foreign or cannot be written.
    """
    with _opened(path, dry_run=dry_run) as (tree, store, repaired):
        leaving = tree.release.with_dependents(_known(tree, names) or tree.release.patches) & tree.begun()
        if not leaving:
            _remember(tree, store, dry_run=dry_run)
            return Outcome((*repaired, "Nothing to revert: the patches are not applied."))
        foreign = tuple(file for file in tree.foreign if tree.release.touching(file) & leaving)
        if foreign:
            raise PatchError(f"{_foreign_sentence(tree, foreign)} Nothing was changed.")
        lines = _change(tree, store, added=frozenset(), removed=leaving, dry_run=dry_run)
        return Outcome((*repaired, *lines))


def diff(names: Sequence[str] = (), path: str | Path | None = None) -> Outcome:
    """Show what the patches ``names`` (all, if there are none) change in the release the tree is, applied or not.

    Raises ``PatchError`` if a file they touch is foreign.
    """
    tree = read_tree(find_package(path), load_releases())
    wanted = _known(tree, names) or frozenset(tree.release.patches)
    lines: list[str] = []
    for file in tree.touched(wanted):
        lines += diff_lines(file, tree.with_patches(file, frozenset()), tree.with_patches(file, wanted))
    return Outcome(tuple(lines))


def lost_patches(path: str | Path | None = None) -> LostPatches | None:
    """Which of the patches this user applied are no longer in the tree, or not in this version's form.

    ``None`` if all are, or there is no tree.

    Raises ``PatchError`` only if the patches of this package or its own records are damaged.
    """
    try:
        package = find_package(path)
    except PatchError:
        return None
    record = Store(package).record()
    if record is None:
        return None
    releases = load_releases()
    if outdated.find_outdated(Store(package), releases) is not None:
        return LostPatches(record.patches, package, record.release, record.release, another_version=True)
    try:
        tree = read_tree(package, releases)
    except PatchError:
        return LostPatches(record.patches, package, record.release, None)
    gone = tuple(name for name in record.patches if name not in tree.begun())
    if not gone:
        return None
    replaced = any(_touches(tree, name, tree.foreign) for name in gone if name in tree.release.patches)
    return LostPatches(gone, package, record.release, None if replaced else tree.release.version)


@contextmanager
def _opened(path: str | Path | None, *, dry_run: bool) -> Iterator[tuple[Tree, Store, tuple[str, ...]]]:
    """The tree, locked and in one state, and what had to be repaired for that. A dry run neither locks nor repairs."""
    package = find_package(path)
    store = Store(package)
    releases = load_releases()
    if dry_run:
        if store.transaction() is not None:
            raise PatchError(f"A change of {package} was interrupted: run `lf-autoworkers patch status` first.")
        old = outdated.find_outdated(store, releases)
        if old is not None:
            raise PatchError(outdated.sentence(old))
        yield read_tree(package, releases), store, ()
        return
    with store.lock():
        told = (recover(store), _bring_up_to_date(store, releases))
        yield read_tree(package, releases), store, tuple(line for line in told if line)


def _bring_up_to_date(store: Store, releases: Sequence[Release]) -> str | None:
    """Put this version's patches in the place of another version's, and say so."""
    old = outdated.find_outdated(store, releases)
    if old is None:
        return None
    outdated.restore(store, old)
    tree = read_tree(store.package, releases)
    names = tree.release.with_required(name for name in old.patches if name in tree.release.patches)
    _require_clean(tree, names)
    _change(tree, store, added=names, removed=frozenset(), dry_run=False)
    return f"Brought up to date: {', '.join(sorted(names))}."


def _change(
    tree: Tree, store: Store, *, added: frozenset[str], removed: frozenset[str], dry_run: bool
) -> tuple[str, ...]:
    """Put ``added`` into the files they touch and take ``removed`` out of theirs, or show how."""
    before, after = dict[str, bytes](), dict[str, bytes]()
    for file in tree.touched(added | removed):
        target = ((tree.files[file].applied or frozenset()) | added) - removed
        old, new = tree.files[file].raw, tree.with_patches(file, target)
        if old is not None and old != new:
            before[file], after[file] = old, _original(tree, store, file, target) or new
    if dry_run:
        shown = [line for file, new in after.items() for line in diff_lines(file, before[file], new)]
        return (*shown, "Dry run: nothing was changed.")
    _require_writable(tree, tuple(after))
    replace_files(store, before, after, _record(tree, store, (tree.applied() | added) - removed, after))
    done = f"Applied: {', '.join(sorted(added))}." if added else f"Reverted: {', '.join(sorted(removed))}."
    return (done, *(f"  {tree.package / file}" for file in after))


def _original(tree: Tree, store: Store, file: str, target: frozenset[str]) -> bytes | None:
    """The saved bytes of ``file`` if it is to be as released and they are what was released."""
    record = store.record()
    if target & tree.release.touching(file) or record is None or file not in record.originals:
        return None
    raw = store.blob(record.originals[file])
    return raw if raw is not None and text_digest(raw) == tree.release.digest(file, frozenset()) else None


def _record(tree: Tree, store: Store, patches: frozenset[str], changed: Mapping[str, bytes]) -> Record:
    """What to remember of a tree that will hold ``patches``, once its files are ``changed``."""
    known = store.record()
    originals = {} if known is None else {file: known.originals[file] for file in known.originals}
    for file, source in tree.files.items():
        if source.applied == frozenset() and source.raw is not None:
            originals[file] = raw_digest(source.raw)
    kept = {file: digest for file, digest in originals.items() if tree.release.touching(file) & patches}
    raw = {file: changed.get(file, source.raw) for file, source in tree.files.items()}
    results = {file: raw_digest(content) for file, content in raw.items() if file in kept and content is not None}
    return Record(str(tree.package), tree.release.version, tuple(sorted(patches)), kept, results)


def _remember(tree: Tree, store: Store, *, dry_run: bool) -> None:
    """Make the record agree with a tree that nothing has to be changed in, so that what was lost is not missed."""
    record = _record(tree, store, tree.applied(), {})
    if not dry_run and record != store.record():
        store.write_record(record)


def _known(tree: Tree, names: Sequence[str]) -> frozenset[str]:
    for name in names:
        if name not in tree.release.patches:
            raise PatchError(
                f"There is no patch `{name}` for LLaMA-Factory {tree.release.version}; "
                f"there are {', '.join(tree.release.patches)}."
            )
    return frozenset(names)


def _require_clean(tree: Tree, missing: frozenset[str]) -> None:
    """Refuse to touch files whose content is not known, or known and yet somebody's work in progress."""
    touched = tree.touched(missing)
    foreign = tuple(file for file in tree.foreign if file in touched)
    if foreign:
        apart = [name for name in sorted(missing) if not _touches(tree, name, foreign)]
        hint = f" These patches leave them alone: {', '.join(apart)}." if apart else ""
        raise PatchError(f"{_foreign_sentence(tree, foreign)} Nothing was changed.{hint}")
    dirty = sorted(file for file in uncommitted(tree.package, touched) if tree.files[file].applied == frozenset())
    if dirty:
        raise PatchError(
            f"{', '.join(dirty)} in {tree.package} differ from the last commit: commit or stash that first "
            "(git stash), nothing was changed."
        )


def _touches(tree: Tree, name: str, files: Sequence[str]) -> bool:
    return not set(files).isdisjoint(tree.touched(tree.release.with_required([name])))


def _require_writable(tree: Tree, files: Sequence[str]) -> None:
    for directory in sorted({(tree.package / file).parent for file in files}):
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            raise PatchError(
                f"{directory} is not writable for this user, nothing was changed: run as its owner, install "
                "LLaMA-Factory into an environment of your own, or patch a checkout with --path DIR."
            )


def _foreign_sentence(tree: Tree, files: Sequence[str]) -> str:
    listed = ", ".join(f"{file} ({tree.files[file].describe()})" for file in files)
    version = tree.release.version
    wrong = f"{listed} in {tree.package}: not what LLaMA-Factory {version} ships and not what the patches make of it."
    if uncommitted(tree.package, files):
        return f"{wrong} Commit or stash your changes (git stash), and check out v{version}."
    return f"{wrong} Install that release again: pip install --force-reinstall --no-deps llamafactory=={version}"
