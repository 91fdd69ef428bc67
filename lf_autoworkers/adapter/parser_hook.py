"""Two methods of ``transformers.HfArgumentParser``, replaced in place.

Covers installing only, and stays light: it is imported wherever transformers' parser is. The work is `arguments`'.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

MARK = "__lf_autoworkers__"
"""Attribute of a replaced method; ``doctor`` looks for it."""


def install(parser_class: Any) -> None:
    """Make ``parser_class`` rewrite ``auto`` before it parses; harmless when called again.

    Every parser that is not LLaMA-Factory's gets exactly what it was given.
    """
    if hasattr(parser_class.parse_dict, MARK):
        return
    parse_dict = parser_class.parse_dict
    parse_list = parser_class.parse_args_into_dataclasses

    @functools.wraps(parse_dict)
    def parse_dict_with_auto(self: Any, args: Any, *rest: Any, **named: Any) -> Any:
        if isinstance(args, dict) and _has_llamafactory(self):
            from lf_autoworkers.adapter.arguments import rewrite

            args = rewrite(self, args)
        return parse_dict(self, args, *rest, **named)

    @functools.wraps(parse_list)
    def parse_list_with_auto(self: Any, args: Any = None, *rest: Any, **named: Any) -> Any:
        if _has_llamafactory(self):
            from lf_autoworkers.adapter.arguments import rewrite

            tokens = sys.argv[1:] if args is None else list(args)
            rewritten = rewrite(self, tokens)
            if rewritten is not tokens:
                args = rewritten
        return parse_list(self, args, *rest, **named)

    setattr(parse_dict_with_auto, MARK, True)
    setattr(parse_list_with_auto, MARK, True)
    parser_class.parse_dict = parse_dict_with_auto
    parser_class.parse_args_into_dataclasses = parse_list_with_auto


def _has_llamafactory(parser: Any) -> bool:
    kinds = getattr(parser, "dataclass_types", ())
    return any(getattr(kind, "__module__", "").partition(".")[0] == "llamafactory" for kind in kinds)
