"""Reading what chat templates can take from LLaMA-Factory's source."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lf_autoworkers.workload.facts import Modality
from lf_autoworkers.workload.templates import TemplateMedia, find_template_source, read_templates, tokenizes_by_header

SOURCE = """
register_template(name="plain", format_user=StringFormatter(slots=["{{content}}"]))
register_template(
    name="sees",
    mm_plugin=get_mm_plugin(name="qwen2_vl", image_token="<i>", video_token="<v>"),
    template_class=ReasoningTemplate,
)
register_template("hears", mm_plugin=get_mm_plugin("qwen2_audio", audio_token="<a>"))
register_template(name="by_position", mm_plugin=get_mm_plugin("all", IMAGE, VIDEO))
register_template(name="without", mm_plugin=get_mm_plugin(name="base", image_token=None))
register_template(name=COMPUTED, mm_plugin=get_mm_plugin(name="x", image_token="<i>"))
other_call(name="not_a_template")
"""


def test_plugin_and_tokens_are_read_from_each_registration(tmp_path: Path) -> None:
    source = tmp_path / "template.py"
    source.write_text(SOURCE)
    assert read_templates(source) == {
        "plain": TemplateMedia("base", frozenset()),
        "sees": TemplateMedia("qwen2_vl", frozenset({Modality.IMAGE, Modality.VIDEO})),
        "hears": TemplateMedia("qwen2_audio", frozenset({Modality.AUDIO})),
        "by_position": TemplateMedia("all", frozenset({Modality.IMAGE, Modality.VIDEO})),
        "without": TemplateMedia("base", frozenset()),
    }


def test_the_installed_templates_are_read_without_importing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "llamafactory.data.template", raising=False)
    source = find_template_source()
    if source is None:
        pytest.skip("LLaMA-Factory is not installed")
    templates = read_templates(source)
    assert templates["qwen2_vl"] == TemplateMedia("qwen2_vl", frozenset({Modality.IMAGE, Modality.VIDEO}))
    assert templates["kimi_vl"].plugin == "kimi_vl"
    assert templates["qwen"].media == frozenset()
    assert len(templates) > 100
    assert "llamafactory.data.template" not in sys.modules


def test_a_package_that_is_missing_or_a_stray_folder_is_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "llamafactory", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert find_template_source() is None
    (tmp_path / "llamafactory").mkdir()
    assert find_template_source() is None


@pytest.mark.parametrize("text", ["def (", "\0"])
def test_a_source_that_is_no_python_raises(tmp_path: Path, text: str) -> None:
    source = tmp_path / "template.py"
    source.write_text(text)
    with pytest.raises((SyntaxError, ValueError)):
        read_templates(source)


@pytest.mark.parametrize(
    ("method", "plugin", "expected"),
    [
        ("_get_qwen_video_grid_metadata", "qwen2_vl", True),
        ("_get_qwen_video_grid_metadata", "intern_vl", False),
        ("something_else", "qwen2_vl", False),
    ],
)
def test_whether_videos_are_tokenised_by_header_is_read_from_the_plugin(
    tmp_path: Path, method: str, plugin: str, expected: bool
) -> None:
    (tmp_path / "mm_plugin.py").write_text(f"    def {method}(self): ...\n")
    assert tokenizes_by_header(tmp_path / "template.py", plugin) is expected
    assert tokenizes_by_header(None, plugin) is False
    assert tokenizes_by_header(tmp_path / "nowhere" / "template.py", plugin) is False
