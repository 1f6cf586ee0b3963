"""A slice of a volumetric model, as the module's preview asks for it."""

import numpy as np
import pytest

from rwkv_core.bundle.bundle import write_bundle
from rwkv_core.models import build_network
from rwkv_core.vocabulary import SegmentOptions, Slices
from rwkv_core.worker.client import WorkerClient
from rwkv_core.worker.protocol import SegmentRequest

from core.small_models import config
from core.worker_helpers import noise, volume_file
from core.worker_stand_ins import BLOCK, PROGRAM

THICKEST = 48
"""Voxels of a slab's depth: a slice, 15 voxels on either side, and up to a multiple of 16."""


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [((1.0, 1.0, 1.0), 0), ((1.0, 1.0, 1.0), 2), ((3.0, 1.0, 1.0), 0), ((3.0, 1.0, 1.0), 2)],
    ids=["axial", "sagittal", "axial, anisotropic", "sagittal, anisotropic"],
)
def test_one_slice_takes_a_thin_slab_through_the_network(tmp_path, spacing, axis):
    patches = {"method": "patches", "spacing": spacing, "size": (64, 64, 64)}
    model = write_bundle(
        tmp_path / "model", config(patches, architecture="u-rwkv", intensity={"method": "zscore"}),
        build_network("u-rwkv", variant="T", num_classes=5),
    )  # fmt: skip
    shape = tuple(96 if n == axis else 32 for n in range(3))
    number = 40
    with WorkerClient(tmp_path / "worker.log", program=PROGRAM, temporary=tmp_path) as worker:
        answer = worker.request(
            SegmentRequest(
                volume=volume_file(worker, noise(shape), np.eye(4)), options=SegmentOptions(
                    model=str(model.folder), device="cpu", engine="torch"
                ), slices=Slices(axis="KJI"[axis], indices=(number,)), keep=True,
            )
        )  # fmt: skip
        labelmap = worker.folder.take(answer.labelmap)
    assert labelmap.shape == tuple(1 if n == axis else 32 for n in range(3))
    lines = (tmp_path / "worker.log").read_text(encoding="utf-8").splitlines()
    blocks = [[int(side) for side in line.split()[1:]] for line in lines if line.startswith(BLOCK)]
    assert blocks
    assert all(block[axis] <= THICKEST for block in blocks)
    assert all(block[axis] >= 16 for block in blocks)
