"""The sample head in Slicer's Sample Data module (the bench's stand-in for it)."""

import hashlib
from pathlib import Path

import pytest
import SampleData as SlicerSampleData
import slicer

from RWKVUNetSegmentLib.Scene import SampleData


@pytest.fixture
def source():
    SampleData.registerSampleData()
    return SlicerSampleData.SampleDataLogic().sourceForSampleName(SampleData.SAMPLE_NAME)


def test_the_checksum_is_the_files(source):
    digest = hashlib.sha256(SampleData.sampleFile().read_bytes()).hexdigest()
    assert source.checksums == [f"SHA256:{digest}"]
    assert digest == SampleData.SAMPLE_SHA256


def test_it_has_a_thumbnail_and_loads(source):
    assert Path(source.thumbnailFileName).is_file()
    (node,) = SlicerSampleData.SampleDataLogic().downloadFromSource(source)
    assert node.GetName() == "Head MR"
    assert source.sampleName == "Head MR (Colin27)" and source.fileNames == ["RWKVUNetSegmentHead.nii.gz"]
    assert node.GetImageData().GetDimensions() == (181, 217, 181)
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode") is node
