"""The scene's segmentations as a data set: geometry, classes, overlaps, transforms; whole or not at all."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import slicer

from rwkv_core.errors import InputError, StorageError
from rwkv_core.training.datasets import open_dataset
from rwkv_core.training.datasets.checking import check_dataset
from rwkv_core.volume import read_volume
from RWKVUNetSegmentLib.Training.TrainingDataExport import classNames, exportData, isValid, problemOf, removeData

from core.worker_helpers import noise
from module.training_runs import addSegmentation, moved
from module.workers import OBLIQUE, volumeNode

SHAPE = (6, 20, 24)


def box(*places):
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(*place) for place in places)] = True
    return mask


LIVER, TUMOR = box((1, 5), (2, 12), (3, 15)), box((2, 3), (4, 8), (5, 9))


@pytest.fixture
def volume():
    return volumeNode(noise(SHAPE).astype(np.int16), name="Case: 1.a")


@pytest.fixture
def segmentation(volume):
    return addSegmentation(volume, {"Liver": LIVER, "Gall bladder": box((1, 4), (14, 18), (2, 20))}, "drawn")


def export(nodes, target, classes=None, folder=""):
    """Path, warnings, and the number of turns."""
    work, turns = exportData(nodes, classes, str(folder), target), 0
    while True:
        try:
            next(work)
        except StopIteration as end:
            return *end.value, turns
        turns += 1


def test_the_data_set_is_what_was_drawn(volume, segmentation, tmp_path):
    segmentation.GetSegmentation().GetSegment("Liver").SetColor(0.8, 0.4, 0.2)
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)  # Slicer has one anyway
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    path, warnings, turns = export([segmentation], tmp_path / "ü软 data")
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes
    assert not warnings and turns > 4
    data = open_dataset(path)
    assert not check_dataset(data).findings
    assert (data.classes[0].name, data.classes[0].color) == ("Liver", (204, 102, 51))
    (case,) = data.cases
    sample = data.read(case)
    assert np.array_equal(sample.image[0], slicer.util.arrayFromVolume(volume))
    assert np.array_equal(sample.label == 1, LIVER)
    assert np.allclose(sample.ijk_to_ras, OBLIQUE)


def test_the_files_are_slicers_own(volume, segmentation, tmp_path):
    """Slicer reads them back as volume and segmentation, with names, colours and geometry."""
    export([segmentation], tmp_path / "data")
    folder = tmp_path / "data" / "scene"
    assert sorted(path.name for path in folder.iterdir()) == ["Case_ 1_a.nrrd", "Case_ 1_a.seg.nrrd"]
    loaded = slicer.util.loadSegmentation(str(folder / "Case_ 1_a.seg.nrrd"))
    again = slicer.util.loadVolume(str(folder / "Case_ 1_a.nrrd"))
    assert loaded.GetSegmentation().GetNthSegment(1).GetName() == "Gall bladder"
    first = loaded.GetSegmentation().GetNthSegmentID(0)
    assert np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(loaded, first, again) > 0, LIVER)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_voxels_of_any_type(kind, tmp_path):
    array = noise(SHAPE).astype(kind)
    node = addSegmentation(volumeNode(array, name="v"), {"Liver": LIVER}, "drawn")
    export([node], tmp_path / "data")
    assert np.array_equal(read_volume(tmp_path / "data" / "scene" / "v.nrrd").array, array)


def test_a_segmentation_on_another_grid_is_brought_onto_its_volumes(volume, tmp_path):
    """Drawn at half the resolution; a segment that Slicer has cropped to its extent, too."""
    coarse = OBLIQUE.copy()
    coarse[:3, :3] *= 2
    coarse[:3, 3] += OBLIQUE[:3, :3] @ [0.5, 0.5, 0.5]
    other = volumeNode(np.zeros((3, 10, 12), np.int16), coarse, "coarse")
    mask = np.zeros((3, 10, 12), bool)
    mask[1, 2:6, 3:8] = True
    node = addSegmentation(other, {"Liver": mask}, "drawn")
    node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), volume.GetID())
    path, _, _ = export([node], tmp_path / "data")
    data = open_dataset(path)
    assert np.array_equal(data.read(data.cases[0]).label == 1, box((2, 4), (4, 12), (6, 16)))


def test_transforms(volume, segmentation, tmp_path):
    """Both moved together: as drawn. The segmentation alone moved by a voxel: a voxel further."""
    transform = moved(volume, (10.0, -5.0, 3.0))
    segmentation.SetAndObserveTransformNodeID(transform.GetID())
    path, _, _ = export([segmentation], tmp_path / "together")
    data = open_dataset(path)
    sample = data.read(data.cases[0])
    assert np.array_equal(sample.label == 1, LIVER) and np.allclose(sample.ijk_to_ras, OBLIQUE)
    volume.SetAndObserveTransformNodeID(None)
    moved(segmentation, OBLIQUE[:3, 0])
    path, _, _ = export([segmentation], tmp_path / "apart")
    data = open_dataset(path)
    assert np.array_equal(data.read(data.cases[0]).label == 1, np.roll(LIVER, 1, axis=2))


def test_classes_that_are_left_out_are_background_and_hide_nothing(volume, tmp_path):
    node = addSegmentation(volume, {"Liver": LIVER, "Body": np.ones(SHAPE, bool)}, "drawn")
    path, warnings, _ = export([node], tmp_path / "data", classes=["Liver"])
    data = open_dataset(path)
    assert [entry.name for entry in data.classes] == ["Liver"] and not warnings
    assert np.array_equal(data.read(data.cases[0]).label == 1, LIVER)


def test_overlaps_are_told(volume, tmp_path):
    node = addSegmentation(volume, {"Liver": LIVER}, "drawn")
    segment = slicer.vtkSegment()
    segment.SetName("Tumor")
    node.GetSegmentation().AddSegment(segment, "Tumor")
    node.GetSegmentation().SeparateSegmentLabelmap("Tumor")
    slicer.util.updateSegmentBinaryLabelmapFromArray(TUMOR.astype(np.uint8), node, "Tumor", volume)
    path, warnings, _ = export([node], tmp_path / "data")
    assert warnings == [f"drawn: {TUMOR.sum()} voxels of Tumor lie in another class too; Tumor counts."]
    data = open_dataset(path)
    label = data.read(data.cases[0]).label
    assert np.array_equal(label == 2, TUMOR) and np.array_equal(label > 0, LIVER)


def test_scene_and_folder_together(volume, segmentation, tmp_path):
    export([segmentation], tmp_path / "first")
    path, _, _ = export([segmentation], tmp_path / "both", folder=tmp_path / "first" / "scene")
    data = open_dataset(path)
    assert len(data.cases) == 2 and len({case.id for case in data.cases}) == 2
    assert [entry.name for entry in data.classes] == ["Liver", "Gall bladder"]


def test_volumes_of_one_name_get_files_of_their_own(segmentation, tmp_path):
    other = addSegmentation(volumeNode(noise(SHAPE), name="case: 1.A"), {"Liver": LIVER}, "drawn")
    path, _, _ = export([segmentation, other], tmp_path / "data")
    assert len(open_dataset(path).cases) == 2


def test_giving_up_leaves_nothing(segmentation, tmp_path):
    work = exportData([segmentation], None, "", tmp_path / "runs" / "data")
    next(work)
    next(work)
    work.close()
    assert not list((tmp_path / "runs").iterdir())


def test_what_cannot_be_exported(volume, segmentation, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists already"):
        export([segmentation], tmp_path / "there")
    with pytest.raises(InputError, match=r"drawn shows nothing of the chosen classes on Case: 1\.a"):
        export([segmentation], tmp_path / "none", classes=["Spleen"])
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="cannot be written"):
        export([segmentation], tmp_path / "file" / "data")


def test_why_a_segmentation_cannot_be_learned_from(volume, segmentation):
    assert isValid(segmentation) == (True, "")
    assert classNames([segmentation]) == ["Liver", "Gall bladder"]
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
    assert "no segments" in isValid(empty)[1]
    homeless = addSegmentation(volume, {"Liver": LIVER}, "homeless")
    homeless.SetNodeReferenceID(homeless.GetReferenceImageGeometryReferenceRole(), None)
    assert "no volume" in isValid(homeless)[1]
    double = addSegmentation(volume, {"Liver": LIVER}, "double")
    double.GetSegmentation().AddEmptySegment("other", "liver ")
    assert "several segments named" in isValid(double)[1]
    second = addSegmentation(volume, {"Liver": LIVER}, "second")
    assert "the same volume, Case: 1.a" in problemOf([segmentation, second])
    bent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "bent")
    segmentation.SetAndObserveTransformNodeID(bent.GetID())
    assert "Harden the transform" in isValid(segmentation)[1]


def test_only_exported_data_are_removed(segmentation, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scan.nrrd").write_bytes(b"precious")
    removeData(tmp_path / "mine")
    assert (tmp_path / "mine" / "scan.nrrd").exists()
    export([segmentation], tmp_path / "data")
    removeData(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_files_are_plain_nrrd(segmentation, tmp_path):
    export([segmentation], tmp_path / "data")
    image = sitk.ReadImage(str(tmp_path / "data" / "scene" / "Case_ 1_a.seg.nrrd"))
    assert image.GetMetaData("Segment0_Name") == "Liver"
    content = json.loads((tmp_path / "data" / "collection.json").read_text())
    assert content == {"collection": ["scene"]}
