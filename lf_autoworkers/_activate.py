"""The entry point that the end of ``import torch`` calls, and the finder that waits for a module.

Covers arming: patch transformers' argument parser at once if it is loaded, else when it is. Imports `sys` and `os`
only, loads no other module of ours until that parser is imported, and never raises: an exception here would make
``import torch`` fail for everybody. What the parser then does is told by `adapter.parser_hook`.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType

PARSER_MODULE = "transformers.hf_argparser"

failure: "BaseException | None" = None
"""What went wrong while arming, for ``lf-autoworkers doctor``; ``None`` if nothing did."""

tell: "Callable[[str, BaseException], None] | None" = None
"""Says to the user which module a call waited for in vain; set once ``auto`` is being resolved."""


class _Waiting:
    """A finder for one module name that finds nothing itself: it has the real finders find it, and adds a call.

    It takes itself off ``sys.meta_path`` the moment its module is asked for.
    """

    def __init__(self, name: str, ready: "Callable[[ModuleType], None]") -> None:
        self.name = name
        self.ready = ready

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        if name != self.name:
            return None
        try:
            sys.meta_path.remove(self)
        except ValueError:
            return None  # another thread is importing it
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find is not None else None
            if spec is not None:
                self._call_after(spec)
                return spec
        return None

    def _call_after(self, spec: "ModuleSpec") -> None:
        loader, ready = spec.loader, self.ready
        execute = getattr(loader, "exec_module", None)
        if execute is None:
            return

        def exec_module(module: "ModuleType") -> None:
            execute(module)
            try:
                ready(module)
            except Exception as error:
                _remember(error)
                if tell is not None:
                    tell(module.__name__, error)

        try:
            loader.exec_module = exec_module  # type: ignore[union-attr, method-assign]
        except AttributeError as error:  # a loader with slots: nothing can be added to it
            _remember(error)


def _remember(error: BaseException) -> None:
    global failure
    failure = error
    if os.environ.get("LF_AUTOWORKERS_LOG", "").strip().lower() == "debug":
        sys.stderr.write(f"lf-autoworkers: arming failed: {type(error).__name__}: {error}\n")


def when_imported(name: str, ready: "Callable[[ModuleType], None]") -> None:
    """Call ``ready`` with the module ``name``: now if it is loaded, else right after it is."""
    module = sys.modules.get(name)
    if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
        ready(module)
    else:
        sys.meta_path.insert(0, _Waiting(name, ready))


def _hook(module: "ModuleType") -> None:
    from lf_autoworkers.adapter.parser_hook import install

    install(module.HfArgumentParser)


def activate() -> None:
    """Arm the hook; called by PyTorch, harmless when called again."""
    try:
        if any(isinstance(finder, _Waiting) and finder.name == PARSER_MODULE for finder in sys.meta_path):
            return
        when_imported(PARSER_MODULE, _hook)
    except Exception as error:
        _remember(error)
