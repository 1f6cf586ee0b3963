"""What the panel's tests share: the panel over stand-ins of the logics, a small volume, and a user's moves."""

from pathlib import Path

import numpy as np
import pytest
import slicer

import bench
from module import logic_stand_ins as stand_ins

MODULE = Path(__file__).parents[2] / "RWKVUNetSegment" / "RWKVUNetSegment.py"


@pytest.fixture
def opened():
    module = stand_ins.openModule(MODULE)
    yield module
    module.close()
    bench.process_events()


@pytest.fixture
def ui(opened):
    return opened.widget.ui


@pytest.fixture
def state(opened):
    """The scene's parameter node."""
    return opened.widget._parameterNode


@pytest.fixture
def volume(opened):
    """Six axial slices of 8 x 7 voxels, shown in the slice views; the first volume of the scene is selected."""
    node = add_volume("scan")
    bench.process_events()
    return node


def add_volume(name, modality="MR"):
    node = slicer.util.addVolumeFromArray(np.arange(6 * 7 * 8, dtype=np.int16).reshape(6, 7, 8), name=name)
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    if modality:
        node.SetVoxelValueUnits(slicer.vtkCodedEntry())
        node.SetAttribute("DICOM.Modality", modality)
    return node


def add_result(volume, name="result"):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.GetSegmentation().AddEmptySegment("liver", "Liver")
    return node


def select_model(ui, title):
    tree = ui.modelTree
    items = [tree.topLevelItem(i) for i in range(tree.topLevelItemCount)]
    tree.setCurrentItem(next(item for item in items if item.text(0) == title))


def choose(combo, text):
    combo.currentIndex = combo.findText(text)


def start_batch(ui, folder):
    ui.batchInputPath.currentPath = str(folder)
    ui.batchOutputPath.currentPath = str(folder / "results")
    ui.batchButton.click()


def offer_installation(opened):
    installation = opened.logic.installation
    installation.ready, installation.torchOffered = False, True
    installation.changed.emit()
