"""The colors of Slicer's two looks, "Light Slicer" and "Dark Slicer", as `qSlicerStyle` has them, on Qt's Fusion."""

from bench.pyside import QtGui

_LIGHT = {
    "Window": "#ffffff", "WindowText": "#000000", "Base": "#ffffff", "AlternateBase": "#e4e4fe",
    "ToolTipBase": "#ffffdc", "ToolTipText": "#000000", "Text": "#000000", "PlaceholderText": "#808080",
    "Button": "#fcfcfc", "ButtonText": "#000000", "BrightText": "#ff0000", "Light": "#c8c8c8", "Midlight": "#e6e6e6",
    "Dark": "#aaaaaa", "Mid": "#c8c8c8", "Shadow": "#5a5a5a", "Highlight": "#308cc6", "HighlightedText": "#ffffff",
    "Link": "#0000ff",
}  # fmt: skip
_LIGHT_DISABLED = {
    "WindowText": "#bebebe", "Base": "#ffffff", "Text": "#bebebe", "ButtonText": "#bebebe", "Highlight": "#919191",
    "HighlightedText": "#ffffff",
}  # fmt: skip
_DARK = {
    "Window": "#323232", "WindowText": "#ffffff", "Base": "#1e1e1e", "AlternateBase": "#323232",
    "ToolTipBase": "#ffffff", "ToolTipText": "#323232", "Text": "#ffffff", "PlaceholderText": "#c0c0c0",
    "Button": "#323232", "ButtonText": "#ffffff", "BrightText": "#ff4444", "Light": "#828284", "Midlight": "#5a5a5b",
    "Dark": "#232323", "Mid": "#2b2b2b", "Shadow": "#141414", "Highlight": "#3ca4ff", "HighlightedText": "#ffffff",
    "Link": "#3ca4ff",
}  # fmt: skip
_DARK_DISABLED = {
    "WindowText": "#6d6d6d", "Base": "#1e1e1e", "Text": "#6d6d6d", "ButtonText": "#b4b4b4", "Highlight": "#505050",
    "HighlightedText": "#6d6d6d",
}  # fmt: skip


def light():
    return _palette(_LIGHT, _LIGHT_DISABLED)


def dark():
    return _palette(_DARK, _DARK_DISABLED)


def _palette(colors, disabled):
    palette = QtGui.QPalette()
    for role, color in colors.items():
        palette.setColor(getattr(QtGui.QPalette, role), QtGui.QColor(color))
    for role, color in disabled.items():
        palette.setColor(QtGui.QPalette.Disabled, getattr(QtGui.QPalette, role), QtGui.QColor(color))
    return palette
