"""Stand-ins for the qMRML and qSlicer widgets, driven by the real scene (their members are Slicer's own)."""

from pathlib import Path

import slicer
import vtk

from bench.pyside import QtCore, QtGui, QtWidgets
from bench.recording import records
from bench.standins import field, signal, standin
from bench.widgets_ctk_values import ctkDoubleSpinBox, ctkSliderWidget


class _SceneWidget(QtWidgets.QWidget):
    """Gets the scene through the .ui file's connections, as in Slicer."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None

    def setMRMLScene(self, scene):
        self._scene = scene

    def mrmlScene(self):
        return self._scene


@standin
class qSlicerWidget(QtWidgets.QWidget):
    mrmlSceneChanged = signal("vtkMRMLScene*")

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None

    def setMRMLScene(self, scene):
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


@standin
class qMRMLWidget(qSlicerWidget):
    def mrmlScene(self):
        return self._scene


class _NodeWidget(_SceneWidget):
    """Follows the nodes of a scene; `_refresh` is called when one of its types is added, removed, renamed or hidden."""

    _NODE_EVENTS = ("NodeAddedEvent", "NodeRemovedEvent")
    _SCENE_EVENTS = ("EndCloseEvent", "EndImportEvent", "EndBatchProcessEvent")
    _NODE_EVENT = vtk.vtkCommand.ModifiedEvent

    def __init__(self, parent=None):
        super().__init__(parent)
        self._sceneTags, self._nodeTags = [], {}
        self.destroyed.connect(self._releaser())

    def _releaser(self):
        """Ends the observations without a reference to the widget, which is gone by then."""
        sceneTags, nodeTags = self._sceneTags, self._nodeTags

        def release():
            for observed, tag in [*sceneTags, *nodeTags.values()]:
                observed.RemoveObserver(tag)
            sceneTags.clear()
            nodeTags.clear()

        self._release = release
        return lambda *_: release()

    def setMRMLScene(self, scene):
        if scene is self._scene:
            return
        self._release()
        super().setMRMLScene(scene)
        if scene:
            for events, callback in ((self._NODE_EVENTS, self._onNode), (self._SCENE_EVENTS, self._onScene)):
                self._sceneTags += [(scene, scene.AddObserver(getattr(scene, event), callback)) for event in events]
        self._refresh()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNode(self, scene, event, node):
        if node is None or any(node.IsA(kind) for kind in self._types()):
            self._onScene()

    def _onScene(self, *_):
        if self._scene and not self._scene.IsBatchProcessing():
            self._refresh()

    def _types(self):
        """Classes of the nodes that are looked at."""
        raise NotImplementedError

    def _watch(self, nodes):
        """Observes the names of exactly these nodes."""
        wanted = {node.GetID(): node for node in nodes}
        for identifier in [i for i in self._nodeTags if i not in wanted]:
            observed, tag = self._nodeTags.pop(identifier)
            observed.RemoveObserver(tag)
        for identifier, node in wanted.items():
            if identifier not in self._nodeTags:
                tag = node.AddObserver(self._NODE_EVENT, self._onModified)
                self._nodeTags[identifier] = (node, tag)

    def _onModified(self, node, event):
        self._refresh()

    def _refresh(self):
        raise NotImplementedError


@standin
class qMRMLNodeComboBox(_NodeWidget):
    currentNodeChanged = signal("vtkMRMLNode*")
    currentNodeIDChanged = signal("QString")
    nodeActivated = signal("vtkMRMLNode*")
    nodeAdded = signal("vtkMRMLNode*")
    nodeAddedByUser = signal("vtkMRMLNode*")
    nodeAboutToBeRemoved = signal("vtkMRMLNode*")
    currentNodeRenamed = signal("QString")

    def __init__(self, parent=None):
        super().__init__(parent)
        self._combo, self._shown, self._attributes, self._current = QtWidgets.QComboBox(), [], [], ""
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._combo)
        self._combo.activated.connect(self._picked)
        self._combo.setEnabled(False)

    def _change(self, *_):
        self._refresh()

    nodeTypes = field("QStringList", (), None, _change)
    hideChildNodeTypes = field("QStringList", (), None, _change)
    showChildNodeTypes = field(bool, True, None, _change)
    showHidden = field(bool, False, None, _change)
    noneEnabled = field(bool, False, None, _change)
    noneDisplay = field(str, "None", None, _change)
    addEnabled = field(bool, True, None, _change)
    removeEnabled = field(bool, True, None, _change)
    editEnabled = field(bool, False, None, _change)
    renameEnabled = field(bool, False, None, _change)
    baseName = field(str, "")
    selectNodeUponCreation = field(bool, True)
    currentNodeID = QtCore.Property(str, lambda self: self._current, lambda self, v: self.setCurrentNodeID(v))

    def setMRMLScene(self, scene):
        before = self._scene
        first = before is None and scene is not None
        super().setMRMLScene(scene)
        if scene is not None and scene is not before:
            self._sceneTags.append((scene, scene.AddObserver(scene.NodeAboutToBeRemovedEvent, self._onNodeGoes, -10.0)))
        self._combo.setEnabled(scene is not None)
        if first and not self._current and not self.noneEnabled and self._shown:
            self.setCurrentNodeID(self._shown[0])

    def addAttribute(self, nodeType, name, value=None):
        self._attributes.append((nodeType, name, value))
        self._refresh()

    def removeAttribute(self, nodeType, name):
        self._attributes = [a for a in self._attributes if a[:2] != (nodeType, name)]
        self._refresh()

    def _types(self):
        return self.nodeTypes

    def _onModified(self, node, event):
        """Most changes of a node do not show here."""
        identifier = node.GetID()
        shown = identifier in self._shown and self._combo.itemText(self._shown.index(identifier)) == node.GetName()
        if not shown or not self._offered([node]):
            self._refresh()

    def _offered(self, nodes):
        """Those of the nodes that can be chosen."""
        kinds, hiddenKinds = self.nodeTypes, self.hideChildNodeTypes
        withChildren, withHidden, attributes = self.showChildNodeTypes, self.showHidden, self._attributes
        return [
            node
            for node in nodes
            if (withHidden or not node.GetHideFromEditors())
            and not any(node.IsA(kind) for kind in hiddenKinds)
            and (any(node.IsA(kind) for kind in kinds) if withChildren else node.GetClassName() in kinds)
            and all(
                not node.IsA(kind)
                or (node.GetAttribute(name) is not None and (value is None or node.GetAttribute(name) == str(value)))
                for kind, name, value in attributes
            )
        ]

    def _ofTypes(self):
        """The scene's nodes of the types that are looked at, in its order."""
        kinds = self.nodeTypes
        if len(kinds) == 1:
            found = self._scene.GetNodesByClass(kinds[0])
            found.UnRegister(None)
            return [found.GetItemAsObject(index) for index in range(found.GetNumberOfItems())]
        nodes = (self._scene.GetNthNode(index) for index in range(self._scene.GetNumberOfNodes()))
        return [node for node in nodes if any(node.IsA(kind) for kind in kinds)]

    def _refresh(self):
        if self._scene is None:
            self._shown = []
            self._combo.clear()
            self._setCurrent("")
            return
        nodes = self._offered(self._ofTypes())
        self._watch(nodes)
        for identifier in [i for i in self._shown if i and self._nodeByID(i) and self._nodeByID(i) not in nodes]:
            self._rowGoes(identifier)  # hidden since
        before, self._shown = set(self._shown), ([""] if self.noneEnabled else []) + [node.GetID() for node in nodes]
        self._combo.clear()
        for identifier in self._shown:
            node = self._scene.GetNodeByID(identifier) if identifier else None
            self._combo.addItem(node.GetName() if node else self.noneDisplay)
        current = self._nodeByID(self._current)
        for enabled, text in (
            (self.renameEnabled and current, "Rename current node"),
            (self.editEnabled and current, "Edit current node"),
            (self.removeEnabled and current, "Delete current node"),
            (self.addEnabled, "Create new " + self._typeLabel()),
        ):
            if enabled:
                self._combo.addItem(text)
        self._setCurrent(self._current if self._current in self._shown else "")
        for node in nodes:
            if node.GetID() not in before and before:
                self.nodeAdded.emit(node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeGoes(self, scene, event, node):
        if node is not None and node.GetID() in self._shown and not scene.IsClosing():
            self._rowGoes(node.GetID())

    def _rowGoes(self, identifier):
        """As the true one's QComboBox: where the chosen row goes, the next node is chosen, or else the last."""
        self.nodeAboutToBeRemoved.emit(self._nodeByID(identifier))
        row = self._shown.index(identifier)
        self._shown.remove(identifier)
        wasBlocked = self._combo.blockSignals(True)
        self._combo.removeItem(row)
        self._combo.blockSignals(wasBlocked)
        if identifier == self._current:
            self._setCurrent(self._shown[min(row, len(self._shown) - 1)] if self._shown else "")

    def _typeLabel(self):
        kind = self.nodeTypes[0] if self.nodeTypes else ""
        return (self._scene.GetTagByClassName(kind) if kind else None) or kind

    def _nodeByID(self, identifier):
        return self._scene.GetNodeByID(identifier) if self._scene and identifier else None

    def _setCurrent(self, identifier):
        self._combo.setCurrentIndex(self._shown.index(identifier) if identifier in self._shown else -1)
        if identifier != self._current:
            self._current = identifier
            self.currentNodeChanged.emit(self.currentNode())
            self.currentNodeIDChanged.emit(identifier)

    def _picked(self, index):
        if index < len(self._shown):
            self._setCurrent(self._shown[index])
            self.nodeActivated.emit(self.currentNode())
            return
        action = self._combo.itemText(index).split()[0]
        self._setCurrent(self._current)
        {"Create": self.addNode, "Delete": self.removeCurrentNode}.get(action, lambda: None)()

    def addNode(self, nodeType=None):
        node = self._scene.AddNewNodeByClass(nodeType or self.nodeTypes[0], self.baseName)
        self.nodeAddedByUser.emit(node)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        return node

    def removeCurrentNode(self):
        if self.currentNode():
            self._scene.RemoveNode(self.currentNode())

    def currentNode(self):
        return self._nodeByID(self._current)

    def setCurrentNode(self, node):
        self.setCurrentNodeID(node if isinstance(node, str) else node.GetID() if node else "")

    def setCurrentNodeID(self, identifier):
        identifier = identifier or ""
        self._setCurrent(identifier if identifier in self._shown else "")

    def setCurrentNodeIndex(self, index):
        self.setCurrentNodeID([i for i in self._shown if i][index] if index >= 0 else "")

    def nodeCount(self):
        return len([i for i in self._shown if i])

    def nodeFromIndex(self, index):
        return self._nodeByID([i for i in self._shown if i][index])


@standin
class qMRMLSegmentSelectorWidget(_NodeWidget):
    currentNodeChanged = signal("vtkMRMLNode*")
    currentSegmentChanged = signal("QString")
    _NODE_EVENT = vtk.vtkCommand.AnyEvent  # segments come, go and are renamed by events of their own

    def __init__(self, parent=None):
        super().__init__(parent)
        self._nodes, self._segments = qMRMLNodeComboBox(), QtWidgets.QComboBox()
        self._nodes.nodeTypes, self._nodes.noneEnabled = ["vtkMRMLSegmentationNode"], True
        self._nodes.addEnabled = self._nodes.removeEnabled = False
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._nodes)
        column.addWidget(self._segments)
        self._nodes.currentNodeChanged.connect(self._nodeChanged)
        self._segments.currentIndexChanged.connect(
            lambda *_: self.currentSegmentChanged.emit(self.currentSegmentID() or "")
        )

    noneEnabled = field(bool, False, None, lambda self, value: self._refresh())
    segmentationNodeSelectorVisible = field(bool, True, None, lambda self, value: self._nodes.setVisible(value))

    def setMRMLScene(self, scene):
        super().setMRMLScene(scene)
        self._nodes.setMRMLScene(scene)

    def _types(self):
        return ("vtkMRMLSegmentationNode",)

    def _nodeChanged(self, node):
        self._watch([node] if node else [])
        self._refresh()
        self.currentNodeChanged.emit(node)

    def _refresh(self):
        node, current = self._nodes.currentNode(), self.currentSegmentID()
        segmentation = node.GetSegmentation() if node else None
        self._segments.clear()
        if self.noneEnabled:
            self._segments.addItem("None", "")
        for identifier in segmentation.GetSegmentIDs() if segmentation else ():
            self._segments.addItem(segmentation.GetSegment(identifier).GetName(), identifier)
        self._segments.setCurrentIndex(max(self._segments.findData(current or ""), 0 if self._segments.count else -1))

    def currentNode(self):
        return self._nodes.currentNode()

    def currentNodeID(self):
        return self._nodes.currentNodeID

    def setCurrentNode(self, node):
        self._nodes.setCurrentNode(node)

    def setCurrentNodeID(self, identifier):
        self._nodes.setCurrentNodeID(identifier)

    def currentSegmentID(self):
        return self._segments.currentData if self._segments.currentIndex >= 0 else ""

    def setCurrentSegmentID(self, identifier):
        self._segments.setCurrentIndex(self._segments.findData(identifier))

    def segmentIDs(self):
        node = self.currentNode()
        return tuple(node.GetSegmentation().GetSegmentIDs()) if node else ()


@standin
class qMRMLSliderWidget(ctkSliderWidget):
    def setMRMLScene(self, scene):
        pass


@standin
class qMRMLSpinBox(ctkDoubleSpinBox):
    def setMRMLScene(self, scene):
        pass


@standin
class ctkMenuButton(QtWidgets.QPushButton):
    """A button whose right edge opens its menu; drawn as a plain one."""

    def menu(self):
        return getattr(self, "_menu", None)

    def setMenu(self, menu):
        self._menu = menu


@standin
class qMRMLSegmentationShow3DButton(ctkMenuButton):
    """Makes and removes the surfaces itself, enables itself, and tells only what the user does."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._segmentation, self._tags = None, []
        self.setCheckable(True)
        self.text = "Show 3D"
        menu = QtWidgets.QMenu(self)
        menu.addAction("Surface smoothing").setCheckable(True)
        self.setMenu(menu)
        self.setEnabled(False)
        self.toggled.connect(self._toggled)
        tags = self._tags
        self.destroyed.connect(lambda *_: [observed.RemoveObserver(tag) for observed, tag in tags])

    locked = field(bool, False)

    def setLocked(self, locked):
        self.locked = locked

    def segmentationNode(self):
        return self._segmentation

    def setSegmentationNode(self, node):
        if node is self._segmentation:
            return
        while self._tags:
            observed, tag = self._tags.pop()
            observed.RemoveObserver(tag)
        self._segmentation = node
        if node is not None:
            kind = slicer.vtkSegmentation
            events = (kind.SegmentAdded, kind.SegmentRemoved, kind.ContainedRepresentationNamesModified)
            self._tags += [(node, node.AddObserver(event, self._update)) for event in (*events, "ModifiedEvent")]
        self._update()

    def _update(self, *_):
        segmentation = self._segmentation.GetSegmentation() if self._segmentation else None
        self.setEnabled(bool(segmentation and not self.locked and segmentation.GetNumberOfSegments()))
        wasBlocked = self.blockSignals(True)
        if segmentation:
            self.setChecked(segmentation.ContainsRepresentation("Closed surface"))
        self.blockSignals(wasBlocked)

    def _toggled(self, on):
        if self._segmentation is None:
            return
        segmentation, display = self._segmentation.GetSegmentation(), self._segmentation.GetDisplayNode()
        with slicer.util.NodeModify(self._segmentation):
            if not on:
                segmentation.RemoveRepresentation("Closed surface")
            elif segmentation.CreateRepresentation("Closed surface") and display:
                display.SetPreferredDisplayRepresentationName3D("Closed surface")
                display.SetPreferredDisplayRepresentationName2D("Binary labelmap")


@standin
class qMRMLSegmentationFileExportWidget(qMRMLWidget):
    """A few of the true one's controls; the files are written by Slicer's logic, as there."""

    exportToFilesDone = signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        self._segmentation, self._folder = None, slicer.app.slicerHome
        self._format, button = QtWidgets.QComboBox(), QtWidgets.QPushButton("Export")
        self._format.addItems(["STL", "OBJ", "NRRD", "NIFTI"])
        column = QtWidgets.QVBoxLayout(self)
        for part in (QtWidgets.QLabel("File format (stand-in for Slicer's):"), self._format, button):
            column.addWidget(part)
        button.clicked.connect(lambda *_: self.exportToFiles())
        self.setEnabled(False)

    settingsKey = field(str, "", None, lambda self, key: self.updateWidgetFromSettings())

    def segmentationNode(self):
        return self._segmentation

    def setSegmentationNode(self, node):
        self._segmentation = node
        self.setEnabled(node is not None)

    def updateWidgetFromSettings(self):
        settings = QtCore.QSettings()
        folder = settings.value(f"{self.settingsKey}/DestinationFolder") or "."  # below Slicer's own, if not absolute
        self._folder = str(Path(slicer.app.slicerHome) / folder)
        self._format.setCurrentText(settings.value(f"{self.settingsKey}/FileFormat") or "STL")

    def exportToFiles(self):
        logic, kind = slicer.vtkSlicerSegmentationsModuleLogic, self._format.currentText
        if kind in ("STL", "OBJ"):
            logic.ExportSegmentsClosedSurfaceRepresentationToFiles(self._folder, self._segmentation, None, kind)
        else:
            extension = {"NRRD": "nrrd", "NIFTI": "nii"}[kind]
            logic.ExportSegmentsBinaryLabelmapRepresentationToFiles(self._folder, self._segmentation, None, extension)
        self.exportToFilesDone.emit()


@standin
class qSlicerDICOMExportDialog(QtCore.QObject):
    """Only says that it was shown: the true one looks for plugins, and writes into the DICOM database."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None

    def setMRMLScene(self, scene):
        self._scene = scene

    def execDialog(self, item=0):
        from bench.dialog_answers import ShownDialog, dialogs

        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self._scene)
        dialogs.shown.append(ShownDialog("qSlicerDICOMExportDialog", "Export", hierarchy.GetItemName(item)))


class _Effect(QtCore.QObject):
    """A qSlicerSegmentEditorAbstractEffect by its name; painting is the test's, through the node."""

    def __init__(self, name):
        super().__init__()
        self.name = name


@standin
class qMRMLSegmentEditorWidget(qMRMLWidget):
    """Choices, effects by name and undo, over the logic that the true one has inside; its table is a list of names.

    As in the true one: before an editor node is set, a segmentation is refused; another segmentation ends the effect,
    and so does readOnly; the effect is the one that the editor node names, and begins only where there is a
    segmentation; it gives the slice views its cursor, and none takes it away; views are observed on demand, or for an
    effect.
    """

    segmentationNodeChanged = signal("vtkMRMLSegmentationNode*")
    sourceVolumeNodeChanged = signal("vtkMRMLVolumeNode*")
    currentSegmentIDChanged = signal("QString")

    def __init__(self, parent=None):
        super().__init__(parent)
        self._logic, self._effect, self._observed = slicer.vtkSlicerSegmentEditorLogic(), None, False
        tags = self._tags = []
        self.destroyed.connect(lambda *_: [observed.RemoveObserver(tag) for observed, tag in tags])
        self._order, self._buttons = (), QtWidgets.QWidget()
        self._names = QtWidgets.QListWidget()
        self._names.setMaximumHeight(70)
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        self._grid = QtWidgets.QGridLayout(self._buttons)
        undo, redo = QtWidgets.QPushButton("Undo"), QtWidgets.QPushButton("Redo")
        undo.clicked.connect(lambda *_: self.undo())
        redo.clicked.connect(lambda *_: self.redo())
        row = QtWidgets.QHBoxLayout()
        for part in (undo, redo):
            row.addWidget(part)
        for part in (QtWidgets.QLabel("Segment Editor (stand-in for Slicer's)"), self._names, self._buttons):
            column.addWidget(part)
        column.addLayout(row)

    segmentationNodeSelectorVisible = field(bool, True)
    sourceVolumeNodeSelectorVisible = field(bool, True)
    switchToSegmentationsButtonVisible = field(bool, True)
    autoShowSourceVolumeNode = field(bool, True)
    show3DButtonVisible = field(bool, True)
    unorderedEffectsVisible = field(bool, True)
    effectColumnCount = field(int, 2)
    readOnly = field(bool, False, None, lambda self, value: self._lock(value))
    maximumNumberOfUndoStates = field(
        int, 10, None, lambda self, count: self._logic.SetMaximumNumberOfUndoStates(count)
    )

    def setMRMLScene(self, scene):
        super().setMRMLScene(scene)
        self._logic.SetMRMLScene(scene)
        self.updateWidgetFromMRML()

    def _lock(self, locked):
        self._buttons.setEnabled(not locked)
        if locked:
            self.setActiveEffect(None)

    def setMRMLSegmentEditorNode(self, node):
        while self._tags:
            observed, tag = self._tags.pop()
            observed.RemoveObserver(tag)
        self._logic.SetSegmentEditorNode(node)
        if node is not None:
            self._tags.append((node, node.AddObserver("ModifiedEvent", self._followEffect)))
        self.updateWidgetFromMRML()

    def _followEffect(self, editor, event):
        """What updateEffectsSectionFromMRML does: the views get the cursor within the node's own event."""
        name = editor.GetActiveEffectName() or "" if editor.GetSegmentationNode() is not None else ""
        if name == (self._effect.name if self._effect else "") or self.mrmlScene() is None:
            return
        self._effect = _Effect(name) if name else None
        self.setupViewObservations() if name else self.removeViewObservations()
        layout, cursor = (
            slicer.app.layoutManager(),
            QtGui.QCursor(QtCore.Qt.CrossCursor if name else QtCore.Qt.ArrowCursor),
        )
        for view in layout.sliceViewNames() if layout is not None else ():
            layout.sliceWidget(view).sliceView().setViewCursor(cursor)

    def mrmlSegmentEditorNode(self):
        return self._logic.GetSegmentEditorNode()

    def setSegmentationNode(self, node):
        editor = self.mrmlSegmentEditorNode()
        if editor is None:
            if node is not None:
                records.failedConnects.append("qMRMLSegmentEditorWidget::setSegmentationNode before an editor node")
            return
        if editor.GetSegmentationNode() is not node:
            self.setActiveEffect(None)
            editor.SetAndObserveSegmentationNode(node)
            self._logic.SetSegmentationNode(node)
            self.updateWidgetFromMRML()
            self.segmentationNodeChanged.emit(node)

    def setSourceVolumeNode(self, node):
        editor = self.mrmlSegmentEditorNode()
        if editor is not None:
            editor.SetAndObserveSourceVolumeNode(node)
            self.sourceVolumeNodeChanged.emit(node)

    def segmentationNode(self):
        editor = self.mrmlSegmentEditorNode()
        node = editor.GetSegmentationNode() if editor is not None and self.mrmlScene() else None
        return node if node is not None and not node.GetHideFromEditors() else None  # it asks a selector

    def sourceVolumeNode(self):
        editor = self.mrmlSegmentEditorNode()
        return editor.GetSourceVolumeNode() if editor is not None else None

    def currentSegmentID(self):
        editor = self.mrmlSegmentEditorNode()
        return editor.GetSelectedSegmentID() or "" if editor is not None else ""

    def setCurrentSegmentID(self, identifier):
        self.mrmlSegmentEditorNode().SetSelectedSegmentID(identifier)
        self.currentSegmentIDChanged.emit(identifier)

    def setEffectNameOrder(self, names):
        self._order = tuple(names)
        for place, name in enumerate(self._order):
            button = QtWidgets.QToolButton()
            button.text = name
            button.setSizePolicy(QtWidgets.QSizePolicy.Ignored, QtWidgets.QSizePolicy.Fixed)
            button.clicked.connect(lambda *_, name=name: self.setActiveEffectByName(name))
            self._grid.addWidget(button, place // self.effectColumnCount, place % self.effectColumnCount)

    def effectNameOrder(self):
        return self._order

    def activeEffect(self):
        return self._effect

    def setActiveEffect(self, effect):
        editor = self.mrmlSegmentEditorNode()
        if editor is not None:
            editor.SetActiveEffectName(effect.name if effect else "")

    def setActiveEffectByName(self, name):
        self.setActiveEffect(_Effect(name) if name else None)

    def saveStateForUndo(self):
        self._logic.SaveStateForUndo()

    def undo(self):
        self._logic.Undo()

    def redo(self):
        self._logic.Redo()

    def setupViewObservations(self):
        self._observed = True

    def removeViewObservations(self):
        self._observed = False

    def updateWidgetFromMRML(self):
        self._names.clear()
        node = self.segmentationNode()
        for identifier in node.GetSegmentation().GetSegmentIDs() if node else ():
            self._names.addItem(node.GetSegmentation().GetSegment(identifier).GetName())
