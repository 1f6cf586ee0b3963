"""The words that users read: American spelling, as Slicer's; translatable; with room for languages that take more."""

import ast
import re
from pathlib import Path
from xml.etree import ElementTree

import ctk
import pytest
import qt

import bench
from bench import pictures, views
from bench.cut_text import cutTexts
from bench.scripted_module import PSEUDO
from bench.visible_texts import texts
from module import logic_stand_ins as stand_ins
from module.panel import MODULE, add_result, add_volume

FILES = sorted(MODULE.parent.rglob("*.py"))
UI_FILES = sorted(MODULE.parent.rglob("*.ui"))
BRITISH = re.compile(
    r"colour|grey|licen[c]e\b|neighbour|centre\b|label(l)ed|labelling|learnt|behaviour|favour|honour|analyse|millilit(re)"
    r"|\w+isation\b|(?<!exerc)(?<!adv)\b(?:recogn|organ|normal|minim|maxim|optim|initial)ise|3-D",
    re.IGNORECASE,
)
RIDDLES = (
    "Give up what goes on",
    "agree no more",
    "Of the adapted model",
    "Wanted",
    "Smallest:",
    "Runs in:",
    "What computes",
    "takes no clicks",
    "no batch yet",
    "this volume is none",
    "has to say, whole",
    "what the network makes of it",
)
SHOWN = {"text", "toolTip", "title", "windowTitle", "format", "placeholderText"}
"""Properties of widgets that people read."""


@pytest.mark.parametrize("path", [*FILES, *UI_FILES], ids=lambda path: path.name)
def test_spelling_and_riddles(path):
    placeholder = re.compile(r"\{\w*\}")
    wrong = [
        f"{path.name}:{line}: {text}"
        for line, text in texts(path)
        if BRITISH.search(placeholder.sub("", text)) or any(riddle in text for riddle in RIDDLES)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_shown_is_translated(path):
    """A constant with letters in it is never given to a widget as it is."""
    wrong = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            names = [target.attr for target in node.targets if isinstance(target, ast.Attribute)]
            if SHOWN & set(names) and re.search("[A-Za-z]{2}", node.value.value):
                wrong.append(f"{path.name}:{node.lineno}: {node.value.value}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_translated_texts_are_constants(path):
    """lupdate finds no text that is put together before it is translated."""
    wrong = [
        f"{path.name}:{node.lineno}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "_"
        and not (isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str))
    ]
    assert not wrong, "\n".join(wrong)


def test_every_control_has_a_tooltip_that_says_more_than_its_label():
    kinds = {
        "QPushButton",
        "QCheckBox",
        "QComboBox",
        "QLineEdit",
        "QDoubleSpinBox",
        "ctkSliderWidget",
        "ctkPathLineEdit",
    }
    poor = []
    for path in UI_FILES:
        for widget in ElementTree.parse(path).iter("widget"):
            if widget.get("class") in kinds:
                shown = {p.get("name"): p.findtext("string") or "" for p in widget.findall("property")}
                if len(shown.get("toolTip", "")) <= len(shown.get("text", "")):
                    poor.append(f"{path.name}: {widget.get('name')}")
    assert not poor, "\n".join(poor)


@pytest.mark.parametrize("width", [430, 500])
def test_a_language_that_takes_more_room_is_not_cut(monkeypatch, width):
    """`panelPicture` raises with what is cut off."""
    monkeypatch.setenv(PSEUDO, "1")
    opened = stand_ins.openModule(MODULE)
    volume = add_volume("scan")
    opened.widget._parameterNode.outputSegmentation = add_result(volume)
    bench.process_events()
    opened.widget.ui.volumesButton.click()
    for section in opened.panel.findChildren(ctk.ctkCollapsibleButton):
        section.collapsed = False
    bench.process_events()
    button = opened.panel.findChild(qt.QPushButton, "segmentButton")
    assert button.text == "Segmentooo", "the bench did not translate"
    try:
        pictures.panelPicture(opened.panel, pictures.ROOT / "out" / "screenshots" / f"panel-pseudo-{width}.png", width)
    finally:
        opened.close()
        bench.process_events()


def test_dialogs_in_a_language_that_takes_more_room_are_not_cut(monkeypatch):
    monkeypatch.setenv(PSEUDO, "1")
    opened = stand_ins.openModule(MODULE)
    volume = add_volume("scan")
    opened.widget._parameterNode.outputSegmentation = add_result(volume)
    bench.process_events()
    cut = []

    def look(dialog):
        views.grab(dialog, pictures.ROOT / "out" / "screenshots" / f"dialog-pseudo-{len(bench.dialogs.shown)}.png")
        cut.extend(cutTexts(dialog))
        return "Rejected"

    bench.dialogs.answer(look, look)
    opened.widget.ui.importButton.click()
    opened.widget.ui.exportButton.click()
    opened.close()
    bench.process_events()
    assert len(bench.dialogs.shown) == 2 and not cut, cut


def test_the_folder_of_texts_is_whole():
    assert len(UI_FILES) >= 5 and all(texts(path) for path in UI_FILES) and isinstance(MODULE, Path)
