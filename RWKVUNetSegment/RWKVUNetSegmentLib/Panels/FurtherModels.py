"""The button that chooses models to follow the first one, and the rule for what two of them find in one place."""

from typing import Any

import qt
from slicer.i18n import tr as _

from RWKVUNetSegmentLib.Panels.Panel import Panel
from RWKVUNetSegmentLib.Panels.ParameterNode import setThenModels, thenModelsOf

_LONGEST = 36
"""Letters of titles that the button has room for."""


class FurtherModels(Panel):
    """Part of the section Model. The order is that in which they were ticked."""

    def setup(self) -> None:
        self._menu = qt.QMenu(self.ui.thenButton)
        self._menu.connect("aboutToShow()", self._fill)
        self._menu.connect("triggered(QAction*)", self.onTicked)
        self.ui.thenButton.setMenu(self._menu)

    def updateFromState(self) -> None:
        ui, node = self.ui, self.parameterNode
        chosen = thenModelsOf(node) if node else ()
        names = ", ".join(self._title(each) for each in chosen)
        if len(names) > _LONGEST:  # a button does not shorten its text by itself
            names = names[: _LONGEST - 1].rstrip(" ,") + "…"
        ui.thenButton.text = _("Then: {models}").format(models=names) if chosen else _("Then: no other model")
        possible = bool(chosen or self._offered())
        why = _("Wait until the segmentation is done.")
        ui.thenButton.visible = possible  # with a single model, there is nothing to choose
        self.allow(ui.thenButton, not self._running(), why)
        ui.overlapComboBox.visible = bool(chosen)
        self.allow(ui.overlapComboBox, not self._running(), why)

    def _offered(self) -> list[Any]:
        """Models that can follow: they segment, are here, and are not the first one."""
        models = self.logic.models
        first = self.parameterNode.model if self.parameterNode else ""
        return [each for each in models.models if each.id != first and models.canSegment(each.id)[0]]

    def _title(self, modelID: str) -> str:
        found = self.logic.models.find(modelID)
        return str(found.title) if found else modelID

    def _running(self) -> bool:
        return bool(self.logic.segmentation.running)

    def _fill(self) -> None:
        self._menu.clear()
        chosen = thenModelsOf(self.parameterNode) if self.parameterNode else ()
        gone = [each for each in chosen if not self.logic.models.canSegment(each)[0]]
        for modelID in [*(each.id for each in self._offered()), *gone]:  # what is gone can be taken away
            action = self._menu.addAction(self._title(modelID))
            action.setCheckable(True)
            action.setChecked(modelID in chosen)
            action.setData(modelID)

    def onTicked(self, action: Any) -> None:
        modelID = str(action.data())
        others = [each for each in thenModelsOf(self.parameterNode) if each != modelID]
        setThenModels(self.parameterNode, [*others, modelID] if action.checked else others)
