"""A model in words and colors, for its line in the list and for the text below it."""

from html import escape

from slicer.i18n import tr as _

from rwkv_core.vocabulary import ModelEntry

STATE_ICONS = {
    "shipped": "StateReady",
    "installed": "StateReady",
    "needs download": "StateDownload",
    "not published": "StateUnavailable",
    "broken": "StateBroken",
}
"""Icon files of the states."""


def stateInWords(model: ModelEntry) -> str:
    """E.g. "Shipped", "Downloaded", "Needs download"."""
    if model.state == "installed":
        origins = {"downloaded": _("Downloaded"), "imported": _("Imported"), "trained": _("Trained")}
        return origins.get(model.origin.partition(" ")[0], _("On this computer"))
    return {
        "shipped": _("Shipped"),
        "needs download": _("Needs download"),
        "not published": _("Not published"),
        "broken": _("Damaged"),
    }[model.state]


def modalityInWords(model: ModelEntry) -> str:
    """CT, MR, or Any for a model that takes both."""
    return _("Any") if model.modality == "any" else model.modality


def sizeInWords(size: int | None) -> str:
    """E.g. "12.7 MB"; empty when it is not known."""
    return "" if size is None else _("{size:.1f} MB").format(size=size / 1e6)


def description(model: ModelEntry, time: str = "") -> str:
    """What the model is for, its classes in their colors, state, license, size and origin, as rich text.

    Args:
        time: that it takes, in words; empty when it is not known.
    """
    classes = " ".join(
        f'<span style="color:#{red:02x}{green:02x}{blue:02x}">■</span>&nbsp;{escape(entry.name).replace(" ", "&nbsp;")}'
        for entry in model.classes
        for red, green, blue in (entry.color,)
    )
    state = stateInWords(model)
    if model.reason:
        state += f": {model.reason}"
    elif model.origin and model.state == "installed":
        state = model.origin[0].upper() + model.origin[1:]
    size = sizeInWords(model.size)
    rows = (
        (_("Structures"), classes),
        (_("Scans"), escape(modalityInWords(model))),
        (_("State"), escape(f"{state}, {size}" if size else state)),
        (_("Time"), escape(time)),
        (_("License"), escape(model.licence)),
    )
    table = "".join(
        f'<tr><td style="padding-right:6px"><b>{name}</b></td><td>{text}</td></tr>' for name, text in rows if text
    )
    return f"<b>{escape(model.title)}</b><br>{escape(model.description)}<table>{table}</table>"
