"""A volumetric model in the module: one more line in the list of models, the same button, previews of a slice."""

import numpy as np
import pytest
import slicer
import torch

from rwkv_core.bundle.bundle import new_network, write_bundle
from rwkv_core.bundle.store import user_store
from rwkv_core.vocabulary import SegmentOptions
from RWKVUNetSegmentLib.Interactive.SliceRequests import PreviewParameters

import bench
from core.small_models import config
from module.panel import MODULE, select_model
from module.workers import LIMIT, noise, ownSettings

SHAPE = (24, 30, 36)
TITLE = "Volumetric model"


@pytest.fixture
def opened(open_module, tmp_path):
    """The real module; U-RWKV with random weights, which label noise with several classes, is the user's model."""
    with ownSettings(tmp_path):
        patches = {"method": "patches", "spacing": (1.0, 1.0, 1.0), "size": (32, 32, 32)}
        settings = config(patches, architecture="u-rwkv", intensity={"method": "zscore"}, title=TITLE)
        torch.manual_seed(0)
        network = new_network(settings)
        heads = [module for module in network.modules() if getattr(module, "out_channels", 0) == 5]
        heads[-1].weight.data *= 30
        write_bundle(user_store() / "small", settings, network)
        module = open_module(MODULE)
        bench.wait_until(lambda: module.logic.models.models, LIMIT)
        yield module


@pytest.mark.views
def test_segment_and_preview(opened, ui, state):
    volume = slicer.util.addVolumeFromArray(noise(SHAPE), name="scan")
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    bench.process_events()
    select_model(ui, TITLE)
    state.engine = "torch"
    bench.process_events()
    ui.segmentButton.click()
    bench.wait_until(lambda: ui.segmentButton.text == "Segment", LIMIT, lambda: ui.statusLabel.text)
    assert ui.statusLabel.text.startswith("Done"), ui.statusLabel.text
    whole = labels(state.outputSegmentation, volume)
    assert len(np.unique(whole)) > 2

    preview = opened.logic.interactive.preview
    preview.start(PreviewParameters(volume, SegmentOptions(model=state.model, device="cpu", engine="torch")))
    bench.wait_until(lambda: preview.previewed and not preview.busy, LIMIT, lambda: preview.message)
    sliceIndex = preview.previewed[0]
    number = sliceIndex.index
    shown = np.moveaxis(labels(preview.node, volume), "KJI".index(sliceIndex.axis), 0)
    same = np.moveaxis(whole, "KJI".index(sliceIndex.axis), 0)
    assert shown[number].any() and not np.delete(shown, number, axis=0).any()
    # A thin slab is all that the preview sees, so it need not say the same everywhere.
    assert (shown[number] == same[number]).mean() > 0.7


def labels(node, volume):
    """(K, J, I): number of the class in each voxel."""
    segments = node.GetSegmentation()
    found = np.zeros(SHAPE, np.uint8)
    for index in range(segments.GetNumberOfSegments()):
        segment = segments.GetNthSegmentID(index)
        name = segments.GetSegment(segment).GetName()
        found[slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, volume) > 0] = int(name.split()[-1])
    return found
