"""Which media a chat template can take, read from LLaMA-Factory's source without importing it.

Covers the ``register_template(name=..., mm_plugin=get_mm_plugin(...))`` calls of ``llamafactory/data/template.py``
(importing that module takes six seconds, parsing it about 25 ms). What a plugin does with media is told by `processor`.
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from .facts import Modality

_TOKENS = ("image_token", "video_token", "audio_token")
_TOKEN_MEDIA = dict(zip(_TOKENS, (Modality.IMAGE, Modality.VIDEO, Modality.AUDIO), strict=True))


_HEADER_METHOD = "def _get_qwen_video_grid_metadata("


@dataclass(frozen=True, slots=True)
class TemplateMedia:
    """What one chat template accepts.

    Attributes:
        plugin: Name of its multimodal plugin, ``base`` for text only.
        media: The kinds of media it has a token for (never ``TEXT``).
    """

    plugin: str
    media: frozenset[Modality]


def find_template_source() -> Path | None:
    """Return the installed LLaMA-Factory's ``data/template.py``; ``None`` if there is none. Nothing is imported."""
    try:
        spec = importlib.util.find_spec("llamafactory")
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        source = Path(folder) / "data" / "template.py"
        if source.is_file():
            return source
    return None


def read_templates(source: Path) -> dict[str, TemplateMedia]:
    """Return the templates that ``source`` registers, by name.

    Raises:
        OSError: The file cannot be read.
        SyntaxError: It is no Python (``ValueError`` for a file with null bytes).
    """
    templates: dict[str, TemplateMedia] = {}
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(call, ast.Call) and _called(call) == "register_template":
            name = _text_argument(call, "name")
            plugin = next((k.value for k in call.keywords if k.arg == "mm_plugin"), None)
            if name is not None:
                templates[name] = _media(plugin)
    return templates


def tokenizes_by_header(source: Path | None, plugin: str) -> bool:
    """Return whether this LLaMA-Factory counts a video's tokens from its header (0.9.5 and later, Qwen-VL's plugins).

    Earlier releases, and other plugins, decode the whole video to tokenise its row.
    """
    if source is None or plugin not in {"qwen2_vl", "qwen3_vl"}:
        return False
    try:
        return _HEADER_METHOD in source.with_name("mm_plugin.py").read_text("utf-8")
    except (OSError, ValueError):
        return False


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _text_argument(call: ast.Call, name: str) -> str | None:
    named = next((k.value for k in call.keywords if k.arg == name), None)
    value = named if named is not None else (call.args[0] if call.args else None)
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def _media(plugin: ast.expr | None) -> TemplateMedia:
    if not isinstance(plugin, ast.Call) or _called(plugin) != "get_mm_plugin":
        return TemplateMedia("base", frozenset())
    positional = dict(zip(_TOKENS, plugin.args[1:], strict=False))
    tokens = {**positional, **{k.arg: k.value for k in plugin.keywords if k.arg in _TOKENS}}
    media = {
        _TOKEN_MEDIA[name]
        for name, value in tokens.items()
        if not (isinstance(value, ast.Constant) and value.value is None)
    }
    return TemplateMedia(_text_argument(plugin, "name") or "base", frozenset(media))
