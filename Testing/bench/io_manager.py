"""slicer.app.coreIOManager() (a stand-in over the real storage nodes and logics): what slicer.util's load*, saveNode,
exportNode, loadScene and saveScene call."""

from pathlib import Path

import slicer
import vtk

VOLUME = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".tif", ".png")
TYPES = {
    **dict.fromkeys(VOLUME, "VolumeFile"),
    **dict.fromkeys((".seg.nrrd", ".seg.nhdr", ".seg.vtm"), "SegmentationFile"),
    **dict.fromkeys((".seq.nrrd",), "SequenceFile"),
    **dict.fromkeys((".mrk.json", ".fcsv"), "MarkupsFile"),
    **dict.fromkeys((".tsv", ".csv"), "TableFile"),
    **dict.fromkeys((".h5", ".tfm"), "TransformFile"),
    **dict.fromkeys((".vtk", ".vtp", ".stl", ".ply", ".obj"), "ModelFile"),
    **dict.fromkeys((".mrml", ".mrb"), "SceneFile"),
    ".ctbl": "ColorTableFile",
    ".txt": "TextFile",
}
STORABLE = {
    "TableFile": "vtkMRMLTableNode",
    "TextFile": "vtkMRMLTextNode",
    "SequenceFile": "vtkMRMLSequenceNode",
    "SegmentationFile": "vtkMRMLSegmentationNode",
}


class qSlicerCoreIOManager:
    """Stand-in for qSlicerCoreIOManager."""

    isStandIn = True

    def fileType(self, path):
        return TYPES.get(self.extractKnownExtension(path), "NoFile")

    def extractKnownExtension(self, path, node=None):
        lower = str(path).lower()
        return next((e for e in sorted(TYPES, key=len, reverse=True) if lower.endswith(e)), Path(path).suffix)

    def fileWriterFileType(self, node, preferred=""):
        return "SceneFile" if node.IsA("vtkMRMLScene") else node.GetClassName()

    def fileWriterExtensions(self, node):
        storage = node.CreateDefaultStorageNode()
        types = storage.GetSupportedWriteFileTypes()
        return tuple(types.GetValue(i) for i in range(types.GetNumberOfValues()))

    def loadNodes(self, fileType, properties, nodes=None, messages=None):
        path = str(properties["fileName"])
        messages = messages or slicer.vtkMRMLMessageCollection()
        if not Path(path).exists():
            messages.AddMessage(vtk.vtkCommand.ErrorEvent, f"file not found: {path}")
            return False
        if fileType == "SceneFile":
            return self.loadScene(path, bool(properties.get("clear", False)))
        name = properties.get("name") or Path(path).name[: -len(self.extractKnownExtension(path)) or None]
        reader = getattr(self, f"_read{fileType}", None)
        node = (
            reader(path, name, properties, messages) if reader else self._readStorable(fileType, path, name, messages)
        )
        if node is None:
            return False
        if nodes is not None:
            nodes.AddItem(node)
        return True

    def _readVolumeFile(self, path, name, properties, messages):
        options = sum(
            bit
            for key, bit in (("labelmap", 1), ("center", 2), ("singleFile", 4), ("discardOrientation", 16))
            if properties.get(key)
        )
        node = slicer.modules.volumes.logic().AddArchetypeVolume(path, name, options)
        logic = slicer.app.applicationLogic()
        if node and properties.get("show", True):
            selection = logic.GetSelectionNode()
            if node.IsA("vtkMRMLLabelMapVolumeNode"):
                selection.SetActiveLabelVolumeID(node.GetID())
            else:
                selection.SetActiveVolumeID(node.GetID())
            logic.PropagateVolumeSelection()
        return node

    def _readSegmentationFile(self, path, name, properties, messages):
        if self.extractKnownExtension(path).startswith(".seg"):
            return self._readStorable("SegmentationFile", path, name, messages)
        labels = slicer.modules.volumes.logic().AddArchetypeVolume(path, name, 1)  # an image of label values
        if labels is None:
            return None
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, node)
        slicer.mrmlScene.RemoveNode(labels)
        return node

    def _readMarkupsFile(self, path, name, properties, messages):
        identifier = slicer.modules.markups.logic().LoadMarkups(path, name, messages)
        return slicer.mrmlScene.GetNodeByID(identifier.split(",")[0]) if identifier else None

    def _readColorTableFile(self, path, name, properties, messages):
        return slicer.modules.colors.logic().LoadColorFile(path, name)

    def _readModelFile(self, path, name, properties, messages):
        return slicer.modules.models.logic().AddModel(path)

    def _readTransformFile(self, path, name, properties, messages):
        return slicer.modules.transforms.logic().AddTransform(path, slicer.mrmlScene)

    @staticmethod
    def _readStorable(fileType, path, name, messages):
        scene = slicer.mrmlScene
        node = scene.AddNewNodeByClass(STORABLE[fileType], name)
        storage = node.CreateDefaultStorageNode()
        storage.SetFileName(path)
        if not storage.ReadData(node):
            messages.AddMessages(storage.GetUserMessages())
            scene.RemoveNode(node)
            return None
        scene.AddNode(storage)
        node.SetAndObserveStorageNodeID(storage.GetID())
        if hasattr(node, "CreateDefaultDisplayNodes"):
            node.CreateDefaultDisplayNodes()
        return node

    def loadScene(self, path, clear=True):
        scene = slicer.mrmlScene
        if path.endswith(".mrb"):
            return bool(scene.ReadFromMRB(path, clear))
        scene.SetURL(path)
        return bool(scene.Connect() if clear else scene.Import())

    def saveScene(self, path, screenShot=None):
        scene, path = slicer.mrmlScene, str(path)
        if path.endswith(".mrb"):
            return bool(scene.WriteToMRB(path, screenShot))
        if not path.endswith(".mrml"):
            return bool(slicer.app.applicationLogic().SaveSceneToSlicerDataBundleDirectory(path, screenShot))
        scene.SetURL(path)
        scene.SetRootDirectory(str(Path(path).absolute().parent))
        return bool(scene.Commit(path))

    def saveNodes(self, fileType, properties, messages=None):
        path = str(properties["fileName"])
        if fileType == "SceneFile":
            return self.saveScene(path)
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode(path)
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        return self._write(node, storage, properties, messages)

    def exportNodes(self, identifiers, paths, properties, hardenTransform, messages=None):
        if hardenTransform:
            raise NotImplementedError("The bench exports no hardened transforms.")
        done = []
        for identifier, path in zip(identifiers, paths, strict=True):
            node = slicer.mrmlScene.GetNodeByID(identifier)
            storage = node.CreateDefaultStorageNode()
            storage.SetScene(slicer.mrmlScene)
            storage.SetFileName(str(path))
            done.append(self._write(node, storage, properties, messages))
        return all(done)

    @staticmethod
    def _write(node, storage, properties, messages):
        if "useCompression" in properties:
            storage.SetUseCompression(int(properties["useCompression"]))
        written = bool(storage.WriteData(node))
        if not written and messages is not None:
            messages.AddMessages(storage.GetUserMessages())
        return written
