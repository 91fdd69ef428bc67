"""The parser's two methods are replaced, each for itself."""

from __future__ import annotations

from typing import Any

from lf_autoworkers.adapter.parser_hook import MARK, install


def test_a_parser_without_one_method_still_gets_the_other() -> None:
    class Parser:
        def parse_dict(self, args: dict[str, Any], allow_extra_keys: bool = False) -> tuple[Any, ...]:
            return args, allow_extra_keys

    install(Parser)
    install(Parser)
    assert hasattr(Parser.parse_dict, MARK)
    assert not hasattr(Parser, "parse_args_into_dataclasses")
    given = {"dataloader_num_workers": "auto"}
    assert Parser().parse_dict(given, allow_extra_keys=True) == (given, True)
