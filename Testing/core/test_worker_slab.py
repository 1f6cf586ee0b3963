"""A slice of a volumetric model, as the module's preview asks for it."""

import numpy as np
import pytest

from rwkv_core.bundle.bundle import write_bundle
from rwkv_core.models import build_network
from rwkv_core.vocabulary import SegmentOptions, Slices
from rwkv_core.worker.protocol import SegmentRequest

from core.small_models import config
from core.worker_client import WorkerClient
from core.worker_helpers import noise, volume_file
from core.worker_stand_ins import BLOCK, PROGRAM, TELL_BLOCKS

THICKEST = 48
"""Voxels of a slab's depth: a slice, 15 voxels on either side, and up to a multiple of 16."""


@pytest.fixture(scope="module")
def worker(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TELL_BLOCKS, "1")
        with WorkerClient(place / "slab.log", program=PROGRAM, temporary=place) as client:
            yield client


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [((1.0, 1.0, 1.0), 0), ((3.0, 1.0, 1.0), 0), ((3.0, 1.0, 1.0), 2)],
    ids=["axial", "axial, anisotropic", "sagittal, anisotropic"],
)
def test_one_slice_takes_a_thin_slab_through_the_network(worker, tmp_path, spacing, axis):
    size = [64 if n == axis else 16 for n in range(3)]
    patches = {"method": "patches", "spacing": spacing, "size": size}
    model = write_bundle(
        tmp_path / "model", config(patches, architecture="u-rwkv", intensity={"method": "zscore"}),
        build_network("u-rwkv", variant="T", num_classes=5),
    )  # fmt: skip
    shape = tuple(96 if n == axis else 16 for n in range(3))
    known = len(worker.log_file.read_bytes())
    request = SegmentRequest(
        volume=volume_file(worker, noise(shape), np.eye(4)),
        options=SegmentOptions(model=str(model.folder), device="cpu", engine="torch"),
        slices=Slices(axis="KJI"[axis], indices=(40,)),
        keep=True,
    )
    labelmap = worker.folder.take(worker.request(request).labelmap)
    assert labelmap.shape == tuple(1 if n == axis else 16 for n in range(3))
    lines = worker.log_file.read_bytes()[known:].decode().splitlines()
    blocks = [[int(side) for side in line.split()[1:]] for line in lines if line.startswith(BLOCK)]
    assert blocks
    assert all(block[axis] <= THICKEST for block in blocks)
    assert all(block[axis] >= 16 for block in blocks)
