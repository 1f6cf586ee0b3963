"""What the sections of the module's panel have in common."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import DeviceError, InputError, RWKVUNetError
from rwkv_core.vocabulary import SegmentOptions
from RWKVUNetSegmentLib.Scene.InputVolume import OTHER, modalityOf, rememberModality

CHECKED = "QPushButton:checked { background-color: #1f5fa0; color: white; }"
"""Style of buttons that stay down: in Slicer's dark look, Qt shows hardly any difference."""

_OUTLINE = 144
"""Gray, 0 to 255."""


@contextmanager
def showErrors(title: str, waitCursor: bool = False) -> Generator[None, None, None]:
    """Show what goes wrong in a dialog, and go on after the `with`, so that the controls show what is.

    Slicer's own `tryWithErrorDisplay` shows it and raises it again.
    """
    try:
        with slicer.util.tryWithErrorDisplay(title, waitCursor=waitCursor):
            yield
    except Exception as error:
        logging.info("RWKVUNetSegment: %s %s", title, error)


class Panel:
    """One section: connects its controls once, and shows the state of the logics and of the parameter node.

    Args:
        ui: the controls by name, from the .ui file.
        logic: `RWKVUNetSegmentLogic`.

    Attributes:
        parameterNode: set by the widget; None while there is no scene to work on.
    """

    def __init__(self, ui: Any, logic: Any):
        self.ui = ui
        self.logic = logic
        self.parameterNode: Any = None
        self._hints: dict[str, str] = {}
        self.setup()

    def setup(self) -> None:
        """Connect the controls."""
        raise NotImplementedError

    def updateFromState(self) -> None:
        """Show what is. Called after every change, so it must be quick and must change nothing but controls."""
        raise NotImplementedError

    def cleanup(self) -> None:
        """Let go of the logics."""

    def allow(self, button: Any, possible: bool, reason: str = "") -> None:
        """Enable a control, or disable it and say in its tooltip why."""
        button.enabled = possible
        self.explain(button, possible, reason)

    def explain(self, button: Any, possible: bool, reason: str = "") -> None:
        """Say in a control's tooltip what it does, or why it cannot be used."""
        hint = self._hints.setdefault(button.name, button.toolTip)
        button.toolTip = hint if possible else reason

    def canUse(self, options: SegmentOptions) -> tuple[bool, str]:
        """Whether all models that options name are here and segment, and else why not."""
        for each in options.of_each_model():
            possible, reason = self.logic.models.canSegment(each.model)
            if not possible:
                return False, reason
        return True, ""

    def fits(self, volume: Any, modelID: str, question: str) -> bool | None:
        """Whether a model was made for a volume's modality. Asks where nothing is known, once for each volume.

        Args:
            question: what is asked when it was not: whether to go on.

        Returns:
            True when it was; False when it was not and the user goes on all the same; None when he does not.
        """
        models = self.logic.models
        expected = models.expectedModality(modelID)
        if expected and not modalityOf(volume):
            isExpected = slicer.util.confirmYesNoDisplay(
                _("Is “{volume}” {modality}? Its file does not say, and the model was made for {modality}.").format(
                    volume=volume.GetName(), modality=expected
                ),
                _("Which kind of scan is it?"),
            )
            rememberModality(volume, expected if isExpected else OTHER)
        warning = models.modalityWarning(modelID, modalityOf(volume))
        if not warning:
            return True
        asked = _("{warning}\n\nThe result may be meaningless. {question}").format(warning=warning, question=question)
        return False if slicer.util.confirmOkCancelDisplay(asked, _("The model may not fit")) else None

    def install(self, torch: bool = False) -> bool:
        """Ask, and install what is missing; a failure is told. Workers are ended: they keep files open.

        Returns:
            Whether nothing went wrong and the user did not refuse; a last check may still be going on.
        """
        installation = self.logic.installation
        self.logic.endWorkers(_("Software is being installed."))
        complete, reason = installation.install(torch=torch)
        self.tellInstallation(complete, reason)
        return complete or (not reason and installation.busy)

    def tellInstallation(self, complete: bool, reason: str) -> None:
        """Say what went wrong in an installation; that Slicer must be restarted is said under Setup."""
        if not complete and reason and not self.logic.installation.restartPending:
            slicer.util.errorDisplay(reason, _("Installation"))

    def onEnter(self) -> None:
        """The module is shown."""

    def onExit(self) -> None:
        """Another module is shown: what takes the mouse or the keyboard in the views is put down."""

    def onSceneCloses(self) -> None:
        """What belongs to the scene alone is forgotten."""

    def offerCPURetry(self, error: RWKVUNetError, device: str, title: str, **details: Any) -> bool:
        """Tell an error; where it was a GPU's, ask whether to go on without it, and choose the processor then.

        Args:
            error: what went wrong.
            device: that was asked for.
            title: of the message; `details` are further options of `slicer.util.messageBox`.

        Returns:
            Whether to go on.
        """
        if not isinstance(error, DeviceError) or device == "cpu":
            slicer.util.errorDisplay(str(error), title, **details)
            return False
        question = _("{error}\n\nUse the processor (CPU) instead? That takes longer.").format(error=error)
        if not slicer.util.confirmOkCancelDisplay(question, title, **details):
            return False
        if self.parameterNode:
            self.parameterNode.device, self.parameterNode.engine = "cpu", "auto"
        return True


def outlineTickBoxes(view: Any) -> None:
    """Let the boxes of a list be seen in Slicer's dark look: Qt outlines them in a shade of the window's color."""
    palette = view.palette
    palette.setColor(qt.QPalette.Window, qt.QColor(*3 * (_OUTLINE,)))
    view.setPalette(palette)


def chooseNothingForRemoved(selector: Any) -> None:
    """Let a qMRMLNodeComboBox show that nothing is chosen when its node is removed: by itself it would choose the next.

    That one belongs to another scan, and what was meant for the removed node would be written into it.
    """

    def onNodeGoes(node: Any) -> None:
        if node is selector.currentNode():
            selector.setCurrentNode(None)

    selector.connect("nodeAboutToBeRemoved(vtkMRMLNode*)", onNodeGoes)


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
