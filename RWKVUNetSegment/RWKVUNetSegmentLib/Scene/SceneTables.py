"""Tables of the scene in Slicer's views."""

from typing import Any

import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import InputError


def showTable(table: Any) -> None:
    """Show a table node, in a layout that has a table.

    Raises:
        InputError: where Slicer has no views.
    """
    layout = slicer.app.layoutManager()
    if layout is None:
        raise InputError(_("This Slicer has no views."))
    layout.setLayout(slicer.modules.tables.logic().GetLayoutWithTable(layout.layout))
    application = slicer.app.applicationLogic()
    application.GetSelectionNode().SetReferenceActiveTableID(table.GetID())
    application.PropagateTableSelection()
