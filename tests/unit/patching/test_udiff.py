"""Unified diffs: parsing, splicing, taking off again."""

from __future__ import annotations

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lf_autoworkers.errors import PatchError
from lf_autoworkers.patching.udiff import Edit, check_context, inverse, merge, parse_diff, splice

LINES = st.lists(st.sampled_from(["", "a", "b", "--- a/x", "+++ b/x", "@@ -1 +1 @@", "-c", " d", "\\"]), max_size=12)


def make_diff(old: list[str], new: list[str], context: int = 3) -> bytes:
    lines = difflib.unified_diff(old, new, "a/x.py", "b/x.py", lineterm="", n=context)
    return ("why\n\n" + "\n".join(lines) + "\n").encode()


def text(lines: list[str], newline: str = "\n") -> bytes:
    return "".join(line + newline for line in lines).encode()


@given(LINES, LINES, st.sampled_from([0, 1, 3]), st.sampled_from(["\n", "\r\n"]))
def test_what_a_diff_does_can_be_undone(old: list[str], new: list[str], context: int, newline: str) -> None:
    if old == new:
        return
    (section,) = parse_diff(make_diff(old, new, context), "test")
    check_context(text(old), section)
    edits = merge(section.edits)
    # An empty text has no newline to copy, so new lines get the plain one.
    expected = text(new, newline if old else "\n")
    assert splice(text(old, newline), edits) == expected
    if new:
        assert splice(expected, inverse(edits)) == text(old, newline if old else "\n")


def test_lines_left_alone_keep_their_own_ending() -> None:
    raw = b"one\r\ntwo\nthree\r\nfour\r\n"
    edited = splice(raw, [Edit(2, (b"three",), (b"3", b"drei"))])
    assert edited == b"one\r\ntwo\n3\r\ndrei\r\nfour\r\n"


def test_a_last_line_without_newline_survives() -> None:
    assert splice(b"one\ntwo", [Edit(0, (b"one",), (b"1",))]) == b"1\ntwo"


def test_no_fuzz() -> None:
    (section,) = parse_diff(make_diff(["a", "b", "c"], ["a", "B", "c"]), "test")
    shifted = text(["new first line", "a", "b", "c"])
    with pytest.raises(PatchError, match=r"x\.py, line 1: the patch was made for another text"):
        check_context(shifted, section)
    with pytest.raises(PatchError, match="Line 2 is not what the patch expects"):
        splice(shifted, section.edits)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Edit(3, (b"x", b"y"), ()), Edit(4, (b"y",), (b"z",))),
        (Edit(3, (), (b"p",)), Edit(3, (), (b"q",))),
        (Edit(3, (), (b"p",)), Edit(3, (b"x",), (b"q",))),
    ],
)
def test_edits_of_the_same_place_are_refused(first: Edit, second: Edit) -> None:
    with pytest.raises(PatchError, match="Two patches change the released file at line"):
        merge([second, first])


def test_edits_side_by_side_are_merged_in_order() -> None:
    first, second = Edit(3, (b"x",), (b"1", b"2")), Edit(4, (b"y",), ())
    assert merge([second, first]) == (first, second)
    assert splice(b"a\nb\nc\nx\ny\nz\n", merge([second, first])) == b"a\nb\nc\n1\n2\nz\n"


GOOD = b"--- a/x.py\n+++ b/x.py\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n"


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (b"only prose\n", "holds no diff"),
        (GOOD.replace(b"+++ b/x.py", b"+++ x.py"), "file header"),
        (GOOD.replace(b"--- a/x.py", b"--- /dev/null"), "renames, creates or deletes"),
        (GOOD.replace(b"+++ b/x.py", b"+++ b/y.py"), "renames, creates or deletes"),
        (GOOD.replace(b"@@ -1,2", b"@@ 1,2"), "not a hunk header"),
        (GOOD.removesuffix(b"+c\n"), "ends inside a hunk"),
        (GOOD.replace(b"\n-b", b"\nb"), "starts with a space"),
        (GOOD.replace(b"-1,2 +1,2", b"-1,1 +1,2"), "does not hold the lines"),
        (GOOD.replace(b"-1,2 +1,2", b"-1,2 +1,1"), "does not hold the lines"),
        (GOOD + b"\\ No newline at end of file\n", "does not hold the lines"),
    ],
)
def test_malformed_diffs_are_named(broken: bytes, complaint: str) -> None:
    with pytest.raises(PatchError, match=complaint):
        parse_diff(broken, "some.patch")
