"""The sample head scan in Slicer's Sample Data module."""

from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from RWKVUNetSegmentLib.Scene.InputVolume import rememberModality

SAMPLE_NAME = "Head MR (Colin27)"

_FILE = "RWKVUNetSegmentHead"
"""Of the scan in Slicer's cache, which all extensions share, and of its thumbnail."""

SAMPLE_SHA256 = "a009051127f64dc3dd554d5f5b589870ea72106d9642c21b4e7093e478cfc309"


def sampleFile() -> Path:
    """Give the scan, as it ships with rwkv_core. Nothing of the library is imported to find it."""
    import rwkv_core

    return Path(rwkv_core.__file__).parent / "data" / "sample" / "ch2.nii.gz"


def loadSample() -> Any:
    """Show the scan in the slice views, loaded where the scene does not have it yet; its volume node."""
    file = str(sampleFile())
    for volume in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        storage = volume.GetStorageNode()
        if storage is not None and storage.GetFileName() == file and not volume.GetModifiedSinceRead():
            slicer.util.setSliceViewerLayers(background=volume, fit=True)
            return volume
    volume = slicer.util.loadVolume(file, {"name": _("Head MR")})
    rememberModality(volume, "MR")
    return volume


def registerSampleData() -> None:
    """Register the scan, with its SHA-256 and a thumbnail. For start-up: loads nothing."""
    import SampleData

    thumbnail = Path(__file__).resolve().parents[2] / "Resources" / "Icons" / f"{_FILE}.png"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="RWKVUNetSegment",
        sampleName=SAMPLE_NAME,
        thumbnailFileName=str(thumbnail),
        uris=sampleFile().as_uri(),
        fileNames=f"{_FILE}.nii.gz",
        nodeNames=_("Head MR"),
        checksums=f"SHA256:{SAMPLE_SHA256}",
    )
