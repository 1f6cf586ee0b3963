"""The dialog that saves structures for other programs, with what Slicer has for it: files, and DICOM."""

from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

_FOLDER = "RWKVUNetSegment/Export/DestinationFolder"
"""Setting of the file export's widget, below the key that the .ui file gives it."""

_UI = Path(__file__).resolve().parents[2] / "Resources" / "UI" / "RWKVUNetSegmentExport.ui"


class ExportDialog:
    """Stays open until it is closed: several formats may be wanted.

    Args:
        segmentation: vtkMRMLSegmentationNode.
        volume: that it was made from; None where that is not known.
        parent: widget; None where Slicer has no window.
    """

    def __init__(self, segmentation: Any, volume: Any, parent: Any = None):
        settings = qt.QSettings()
        if not settings.contains(_FOLDER):  # the widget would begin with Slicer's own program folder
            settings.setValue(_FOLDER, slicer.app.defaultScenePath)
        self.dialog = slicer.util.loadUI(str(_UI))
        if parent is not None:
            self.dialog.setParent(parent, qt.Qt.Dialog)
        self.ui = ui = slicer.util.childWidgetVariables(self.dialog)
        ui.fileExportWidget.setMRMLScene(slicer.mrmlScene)
        ui.fileExportWidget.setSegmentationNode(segmentation)
        self._item, reason = dicomItem(segmentation, volume)
        ui.dicomButton.enabled = not reason
        ui.dicomLabel.text = reason or _("DICOM segmentations (SEG) need Slicer's extension QuantitativeReporting.")
        ui.dicomButton.connect("clicked()", self._onDICOM)
        ui.closeButton.connect("clicked()", self.dialog.accept)

    def show(self) -> None:
        """Show it until it is closed."""
        try:
            self.dialog.exec()
        finally:
            self.dialog.setParent(None)
            self.dialog.deleteLater()

    def _onDICOM(self) -> None:
        export = slicer.qSlicerDICOMExportDialog()
        export.setMRMLScene(slicer.mrmlScene)
        export.execDialog(self._item)


def dicomItem(segmentation: Any, volume: Any) -> tuple[int, str]:
    """The segmentation's item in the subject hierarchy, for an export to the volume's study.

    Returns:
        The item, and why it cannot be exported as DICOM; empty when it can.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(segmentation)
    scan = hierarchy.GetItemByDataNode(volume) if volume is not None else 0
    study = hierarchy.GetItemAncestorAtLevel(scan, "Study") if scan else 0
    if not item or not study or not hierarchy.GetItemUID(scan, "DICOM"):
        return item, _("DICOM is possible for scans that were loaded from Slicer's DICOM database.")
    if hierarchy.GetItemAncestorAtLevel(item, "Study") != study:
        return item, _("For DICOM, move the segmentation into the scan's study in the Data module.")
    return item, ""
