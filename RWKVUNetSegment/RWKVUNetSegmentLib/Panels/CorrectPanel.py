"""Interactive, Correct: Slicer's own segment editor in the panel, with a parameter set node of its own."""

from typing import Any

import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from RWKVUNetSegmentLib.Panels.Panel import Panel
from RWKVUNetSegmentLib.Scene.HiddenNodes import addHiddenNode

_EFFECTS = (
    "Paint", "Draw", "Erase", "Threshold", "Scissors", "Islands", "Smoothing", "Grow from seeds", "Logical operators",
)  # fmt: skip
_UNDO_STATES = 10
_ATTRIBUTE = "RWKVUNetSegment.Editor"


class CorrectPanel(Panel):
    """The editor is made when the box is opened for the first time, and works while the box is open and shown.

    While it has the segmentation open, all that this module writes is one more step of its undo history, and every
    Undo of the panel is the editor's.

    Attributes:
        editor: qMRMLSegmentEditorWidget; None before.
    """

    def setup(self) -> None:
        self.editor: Any = None
        self._node: Any = None
        self._observations = VTKObservationMixin()
        self._shown = True
        self._active = False
        self.ui.correctBox.connect("contentsCollapsed(bool)", self.onCollapsed)
        self.logic.interactive.pointing.changed.connect(self._onPointing)

    def cleanup(self) -> None:
        self.logic.interactive.pointing.changed.disconnect(self._onPointing)
        self._release()
        if self.editor is not None:
            self.editor.setMRMLScene(None)
            self.editor.setParent(None)
            self.editor.deleteLater()
            self.editor = None

    def onSceneCloses(self) -> None:
        self._release()

    def onExit(self) -> None:
        """Another module is shown: the mouse is its own."""
        self._shown = False
        self._rest()

    def onEnter(self) -> None:
        self._shown = True

    def onCollapsed(self, collapsed: bool) -> None:
        if collapsed:
            self._release()
        self.updateFromState()

    def updateFromState(self) -> None:
        ui, node = self.ui, self.parameterNode
        segmentation = node.outputSegmentation if node is not None else None
        volume = node.inputVolume if node is not None else None
        usable = segmentation is not None and volume is not None
        ui.correctLabel.text = (
            _("Slicer's own effects, on the segmentation above. Masking and completed segments hold for all tools.")
            if usable
            else _("Choose a volume and a segmentation, or press Segment: then Slicer's own effects are here.")
        )
        if ui.correctBox.collapsed or not self._shown:
            return
        if not usable:
            self._release()
        else:
            self._open(segmentation, volume)
        if self.editor is not None:
            self.editor.visible = usable
            locked = bool(self.logic.interactive.result.busy or self.logic.segmentation.running)
            if self.editor.readOnly != locked:  # it would fill its list of segments anew each time
                self.editor.readOnly = locked

    def _open(self, segmentation: Any, volume: Any) -> None:
        if self.editor is None:
            self.editor = self._newEditor()
            self.ui.correctBox.layout().addWidget(self.editor)
        if self._node is None or self._node.GetScene() is None:
            self._node = addHiddenNode("vtkMRMLSegmentEditorNode", "RWKVUNetSegment editor", _ATTRIBUTE)
            self._observations.addObserver(self._node, "ModifiedEvent", self._onEditorNode)
            self.editor.setMRMLSegmentEditorNode(self._node)
            self.editor.setMRMLScene(slicer.mrmlScene)  # after the node, so that its choices are kept there
        if self.editor.segmentationNode() is not segmentation:
            self.editor.setSegmentationNode(segmentation)
            self.editor.setSourceVolumeNode(volume)
        elif self.editor.sourceVolumeNode() is not volume:
            self.editor.setSourceVolumeNode(volume)
        if not self._active:
            self._active = True
            self.editor.setupViewObservations()
            self.logic.segmentation.writer.history.ownEditor = self.editor

    def _newEditor(self) -> Any:
        editor = slicer.qMRMLSegmentEditorWidget()
        editor.segmentationNodeSelectorVisible = editor.sourceVolumeNodeSelectorVisible = False
        editor.switchToSegmentationsButtonVisible = editor.show3DButtonVisible = False
        editor.autoShowSourceVolumeNode = False  # the views stay as they are
        editor.unorderedEffectsVisible = False
        editor.effectColumnCount = 3
        editor.setEffectNameOrder(_EFFECTS)
        editor.maximumNumberOfUndoStates = _UNDO_STATES
        return editor

    def _rest(self) -> None:
        """Give the mouse back to the views."""
        self._active = False
        if self.editor is not None:
            self.editor.setActiveEffect(None)
            self.editor.removeViewObservations()

    def _release(self) -> None:
        """Let go of the segmentation; undo is the module's own again."""
        self._rest()
        self.logic.segmentation.writer.history.ownEditor = None
        if self._node is not None:
            self._observations.removeObservers()
            self.editor.setSegmentationNode(None)
            self.editor.setMRMLSegmentEditorNode(None)
            if self._node.GetScene() is not None:
                slicer.mrmlScene.RemoveNode(self._node)
            self._node = None

    def _onPointing(self) -> None:
        """One tool has the left mouse button."""
        if self.logic.interactive.pointing.tool and self.editor is not None and self.editor.activeEffect() is not None:
            self.editor.setActiveEffect(None)

    def _onEditorNode(self, caller: Any, event: Any) -> None:
        if caller.GetActiveEffectName() and self.logic.interactive.pointing.tool:
            self.logic.interactive.pointing.disarm()
