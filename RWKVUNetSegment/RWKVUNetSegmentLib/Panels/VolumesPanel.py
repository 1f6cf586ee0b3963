"""What there is to take home of a result: the list of volumes with the model's confidence, and export."""

from pathlib import Path
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from rwkv_core.vocabulary import StructureVolume
from RWKVUNetSegmentLib.EventLoop import Timer
from RWKVUNetSegmentLib.Panels.ExportDialog import ExportDialog
from RWKVUNetSegmentLib.Panels.Panel import Panel, showErrors, showTable
from RWKVUNetSegmentLib.Scene.StructureVolumes import measure, tableOf, writeCSV

_QUIET_MILLISECONDS = 400
"""Somebody paints: the list is measured anew when the brush rests."""

_EVENTS = (
    vtk.vtkCommand.ModifiedEvent,
    slicer.vtkSegmentation.SegmentAdded,
    slicer.vtkSegmentation.SegmentRemoved,
    slicer.vtkSegmentation.SegmentModified,
)


class VolumesPanel(Panel):
    """Shows the chosen segmentation as it is now, while the list is open."""

    def setup(self) -> None:
        ui = self.ui
        self._observations, self._voxels = VTKObservationMixin(), VTKObservationMixin()
        self._segmentation: Any = None
        self._timer = Timer(self._fill, _QUIET_MILLISECONDS)
        self._shown: Any = None
        self._rows: tuple[StructureVolume, ...] = ()
        header = ui.volumesTree.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        for column in (1, 2):
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
            ui.volumesTree.headerItem().setTextAlignment(column, qt.Qt.AlignRight | qt.Qt.AlignVCenter)
        ui.volumesTree.sortingEnabled = True
        header.setSortIndicator(-1, qt.Qt.AscendingOrder)  # as the segmentation has them
        ui.volumesWidget.visible = False
        ui.volumesButton.connect("toggled(bool)", self.onToggled)
        ui.volumesTree.connect("itemDoubleClicked(QTreeWidgetItem*,int)", self.onGoTo)
        ui.saveVolumesButton.connect("clicked()", self.onSave)
        ui.volumesTableButton.connect("clicked()", self.onShowTable)
        ui.exportButton.connect("clicked()", self.onExport)

    def cleanup(self) -> None:
        self._timer.delete()
        self._watch(None)

    def onSceneCloses(self) -> None:
        self._watch(None)

    @property
    def _node(self) -> Any:
        return self.parameterNode.outputSegmentation if self.parameterNode else None

    def updateFromState(self) -> None:
        ui, node = self.ui, self._node
        running = bool(self.logic.segmentation.running)
        usable = bool(node and node.GetSegmentation().GetNumberOfSegments()) and not running
        why = _("Wait until the segmentation is done.") if running else _("There is no result yet.")
        self.allow(ui.volumesButton, usable, why)
        self.allow(ui.exportButton, usable, why)
        shown = usable and ui.volumesButton.checked
        ui.volumesWidget.visible = shown
        self._watch(node if shown else None)

    def onToggled(self, on: bool) -> None:
        self.updateFromState()

    def _watch(self, node: Any) -> None:
        if node is self._shown:
            return
        self._observations.removeObservers()
        self._timer.stop()
        self._shown = node
        if node is not None:
            for event in _EVENTS:
                self._observations.addObserver(node, event, self._onChanged)
            self._fill()
        else:
            self._watchVoxels(None)

    def _watchVoxels(self, segmentation: Any) -> None:
        """Painting is told by the vtkSegmentation alone; a frame of a sequence has another one."""
        if segmentation is not self._segmentation:
            self._voxels.removeObservers()
            self._segmentation = segmentation
            if segmentation is not None:
                event = slicer.vtkSegmentation.SourceRepresentationModified
                self._voxels.addObserver(segmentation, event, self._onChanged)

    def _onChanged(self, caller: Any, event: Any) -> None:
        self._timer.start()

    def _fill(self) -> None:
        if self._shown is None:
            return
        self._watchVoxels(self._shown.GetSegmentation())
        tree = self.ui.volumesTree
        self._rows = measure(self._shown)
        tree.sortingEnabled = False  # else each row is sorted as it comes
        tree.clear()
        for row in self._rows:
            item = qt.QTreeWidgetItem()
            item.setText(0, row.name)
            item.setToolTip(0, row.name)
            item.setData(0, qt.Qt.UserRole, row.value)
            item.setText(1, f"{row.volume_ml:8.2f}")  # filled up from the left, so that 9 comes before 10 when sorted
            item.setText(2, "" if row.confidence is None else f"{row.confidence:.2f}")
            for column in (1, 2):
                item.setTextAlignment(column, qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            tree.addTopLevelItem(item)
        tree.sortingEnabled = True
        self.ui.leastSureLabel.text = self._whereToLook()

    def _whereToLook(self) -> str:
        known = [row for row in self._rows if row.confidence is not None and row.volume_ml > 0]
        if not known:
            return ""
        least = sorted(known, key=lambda row: row.confidence or 0.0)[:3]
        return _("The model is least sure of {structures}: look there first.").format(
            structures=", ".join(f"{row.name} ({row.confidence:.2f})" for row in least)
        )

    def onGoTo(self, item: Any, column: int) -> None:
        """Let all slice views show the middle of a structure."""
        number = item.data(0, qt.Qt.UserRole)
        segmentIDs = self._shown.GetSegmentation().GetSegmentIDs() if self._shown is not None else ()
        if 0 < number <= len(segmentIDs):
            center = self._shown.GetSegmentCenterRAS(segmentIDs[number - 1])
            if center is not None:
                sliceNode = slicer.vtkMRMLSliceNode
                sliceNode.JumpAllSlices(slicer.mrmlScene, *center, sliceNode.CenteredJumpSlice)

    def onSave(self) -> None:
        with showErrors(_("The list could not be saved.")):
            name = f"{self._shown.GetName()}.csv"
            path = qt.QFileDialog.getSaveFileName(
                slicer.util.mainWindow(), _("Save the volumes"), name, _("Text, comma separated") + " (*.csv)"
            )
            if path:
                writeCSV(Path(path if Path(path).suffix else f"{path}.csv"), measure(self._shown))

    def onShowTable(self) -> None:
        with showErrors(_("The table cannot be shown.")):
            showTable(tableOf(self._shown, measure(self._shown)))

    def onExport(self) -> None:
        with showErrors(_("The structures could not be exported.")):
            ExportDialog(self._node, self.parameterNode.inputVolume, slicer.util.mainWindow()).show()
