"""A model in words and colors, for its line in the list and for the text below it."""

from html import escape

from slicer.i18n import tr as _

from rwkv_core.vocabulary import ModelEntry, SegmentClass

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


def variantInWords(model: ModelEntry) -> str:
    """E.g. "T: fast"; empty for models of other architectures."""
    return {"T": _("T: fast"), "S": _("S: balanced"), "B": _("B: best, and slowest")}.get(model.variant, "")


def sizeInWords(size: int | None) -> str:
    """E.g. "12.7 MB"; empty when it is not known."""
    return "" if size is None else _("{size:.1f} MB").format(size=size / 1e6)


def description(model: ModelEntry, time: str = "") -> str:
    """Say what the model is for, its classes in their colors, state, license, size and origin, as rich text.

    Args:
        time: that it takes, in words; empty when it is not known.
    """
    single, sided = _structures(model)
    state = stateInWords(model)
    if model.reason:
        state += f": {model.reason}"
    elif model.origin and model.state == "installed":
        state = model.origin[0].upper() + model.origin[1:]
    size = sizeInWords(model.size)
    rows = (
        (_("Scans"), escape(modalityInWords(model))),
        (_("State"), escape(f"{state}, {size}" if size else state)),
        (_("Size"), escape(variantInWords(model))),
        (_("Time"), escape(time)),
        (_("License"), escape(model.licence)),
    )
    table = "".join(
        f'<tr><td style="padding-right:6px"><b>{name}</b></td><td>{text}</td></tr>' for name, text in rows if text
    )
    groups = ((_("Structures"), single), (_("Left and right"), sided))
    structures = "".join(
        f"<br><b>{title}</b> {' '.join(found)}" for title, found in groups if found
    )  # over all the width
    return f"<b>{escape(model.title)}</b><br>{escape(model.description)}{structures}<table>{table}</table>"


def _structures(model: ModelEntry) -> tuple[list[str], list[str]]:
    """Every class with its color: those that stand alone, and those with two sides, which are told together."""
    by_value = {entry.value: entry for entry in model.classes}
    single, sided = [], []
    for entry in model.classes:
        other = by_value.get(entry.opposite) if entry.opposite is not None else None
        if other is None:
            single.append(_colored(entry.name, entry))
        elif entry.value < other.value:
            name = entry.name.partition(" ")[2]
            if name and other.name.partition(" ")[2] == name:
                sided.append(_colored(name[0].upper() + name[1:], entry, other))
            else:
                single.append(_colored(f"{entry.name}, {other.name}", entry, other))
    return single, sided


def _colored(text: str, *entries: SegmentClass) -> str:
    squares = "".join(
        f'<span style="color:#{red:02x}{green:02x}{blue:02x}">■</span>'
        for red, green, blue in (e.color for e in entries)
    )
    return f"{squares}&nbsp;{escape(text).replace(' ', '&nbsp;')}"
