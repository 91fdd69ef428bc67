"""Two methods of ``transformers.HfArgumentParser``, replaced in place.

Covers installing only, and stays light: it is imported wherever transformers' parser is. The work is `arguments`'.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

MARK = "__lf_autoworkers__"
"""Attribute of a replaced method; ``doctor`` looks for it."""


def install(parser_class: Any) -> None:
    """Make ``parser_class`` rewrite ``auto`` before it parses; harmless when called again.

    Every parser that is not LLaMA-Factory's gets exactly what it was given. Where one method is missing the other is
    replaced all the same.
    """
    for name, with_auto in (("parse_dict", _dict_with_auto), ("parse_args_into_dataclasses", _list_with_auto)):
        original = getattr(parser_class, name, None)
        if original is not None and not hasattr(original, MARK):
            replaced = with_auto(original)
            setattr(replaced, MARK, True)
            setattr(parser_class, name, replaced)


def _dict_with_auto(parse_dict: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(parse_dict)
    def parse_dict_with_auto(self: Any, args: Any, *rest: Any, **named: Any) -> Any:
        if isinstance(args, dict) and _has_llamafactory(self):
            from lf_autoworkers.adapter.arguments import rewrite

            args = rewrite(self, args)
        return parse_dict(self, args, *rest, **named)

    return parse_dict_with_auto


def _list_with_auto(parse_list: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(parse_list)
    def parse_list_with_auto(self: Any, args: Any = None, *rest: Any, **named: Any) -> Any:
        if _has_llamafactory(self):
            from lf_autoworkers.adapter.arguments import rewrite

            tokens = sys.argv[1:] if args is None else list(args)
            rewritten = rewrite(self, tokens)
            if rewritten is not tokens:
                args = rewritten
        return parse_list(self, args, *rest, **named)

    return parse_list_with_auto


def _has_llamafactory(parser: Any) -> bool:
    kinds = getattr(parser, "dataclass_types", ())
    return any(getattr(kind, "__module__", "").partition(".")[0] == "llamafactory" for kind in kinds)
