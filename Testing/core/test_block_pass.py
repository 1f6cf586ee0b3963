"""Volumetric networks: blocks, blended and streamed into the labelmap."""

import sys

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from scipy.spatial.transform import Rotation
from torch import nn

from rwkv_core import Region, Segmenter, Volume
from rwkv_core.bundle.bundle import read_bundle, write_bundle
from rwkv_core.bundle.config import BundleConfig
from rwkv_core.errors import BundleError, CancelledError, InputError
from rwkv_core.models import build_network

from core.small_models import BandNetwork, config, with_network

OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", [8, -6, 10], degrees=True).as_matrix()


def volumetric(size=(32, 32, 32), spacing=(1.0, 1.0, 1.0), **more):
    """config.json of a volumetric model."""
    patches = {"method": "patches", "spacing": spacing, "size": size}
    return config(resampling=patches, architecture="u-rwkv", **more)


def cube(shape=(70, 60, 50), levels=5):
    """A volume of large blocks of a few grey levels, and the channels that BandNetwork finds there."""
    coarse = np.random.default_rng(2).integers(0, levels, [side // 10 for side in shape])
    channel = coarse.repeat(10, 0).repeat(10, 1).repeat(10, 2)
    return channel.astype(np.float32) / 4, channel


class Ramp(nn.Module):
    """Stand-in: logits that depend on the place in the block, so that blending shows."""

    def forward(self, block):
        depth, height, width = (torch.linspace(0, 1, side) for side in block.shape[2:])
        ramp = depth[:, None, None] + 2 * height[:, None] + 3 * width + block[:, :1]
        return torch.cat([ramp, 2 - ramp, ramp.square(), ramp * 0, ramp * 0], 1)


@pytest.mark.parametrize("matrix", [np.eye(4), OBLIQUE, np.diag([-1, 1, -1, 1.0])], ids=["RAS", "oblique", "flipped"])
@pytest.mark.parametrize("shape", [(70, 60, 50), (30, 20, 10)], ids=["many blocks", "smaller than a block"])
def test_every_voxel_gets_its_label(matrix, shape):
    voxels, channel = cube(shape)
    network = BandNetwork()
    result = Segmenter(with_network(volumetric(), network), "cpu").segment(Volume(voxels, matrix))
    assert np.array_equal(result.labelmap, channel)
    assert all(side % 16 == 0 and side <= 32 for shape in network.seen for side in shape[2:])


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 1.0, 3.0)], ids=["finer", "anisotropic"])
def test_volumes_of_other_spacings_keep_their_grid(spacing):
    voxels, channel = cube()
    matrix = np.diag([*spacing, 1.0])
    result = Segmenter(with_network(volumetric(), BandNetwork()), "cpu").segment(Volume(voxels, matrix))
    assert result.labelmap.shape == channel.shape
    inner = np.pad(np.ones((6, 6, 6), bool), 2).repeat(1, 0)
    middle = np.tile(inner, [side // 10 for side in channel.shape])  # away from the blocks' borders
    assert np.array_equal(result.labelmap[middle], channel[middle])


def test_bands_are_blended_along_the_depth_as_blocks_are():
    voxels = np.random.default_rng(0).uniform(size=(72, 32, 32)).astype(np.float32)
    segmenter = Segmenter(with_network(volumetric(orientations=("stored",)), Ramp()), "cpu")
    result = segmenter.segment(Volume(voxels, np.eye(4)), probabilities=True)
    expected = sliding_window_inference(
        torch.from_numpy(voxels)[None, None], (32, 32, 32), 1, Ramp(), overlap=0.5, mode="gaussian"
    ).softmax(1)[0]
    middle = np.s_[:, :, 12:20, 12:20]  # farther out, MONAI raises the smallest weights
    assert np.allclose(result.probabilities[middle], expected[middle].numpy(), atol=0.002)


def test_a_region_is_written_alone_and_seen_with_its_surroundings():
    voxels, channel = cube()
    network = BandNetwork()
    segmenter = Segmenter(with_network(volumetric(), network), "cpu")
    for region, inside in (
        (Region(k=(20, 21)), np.s_[20:21]),
        (Region(i=(7, 8)), np.s_[:, :, 7:8]),
        (Region(i=(5, 30), j=(10, 20), k=(30, 50)), np.s_[30:50, 10:20, 5:30]),
    ):
        network.seen.clear()
        result = segmenter.segment(Volume(voxels, np.eye(4)), region, probabilities=True)
        expected = np.zeros_like(channel)
        expected[inside] = channel[inside]
        assert np.array_equal(result.labelmap, expected)
        assert np.array_equal(result.probabilities.any(0), _mask(channel.shape, inside))
        assert min(min(shape[2:]) for shape in network.seen) > 16  # more than the one slice


def _mask(shape, inside):
    mask = np.zeros(shape, bool)
    mask[inside] = True
    return mask


def test_progress_ends_with_all_slices_and_cancel_stops_between_blocks():
    voxels, _ = cube()
    network = BandNetwork()
    segmenter = Segmenter(with_network(volumetric(), network), "cpu")
    told = []
    segmenter.segment(Volume(voxels, np.eye(4)), progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 70) and told[-1] == (70, 70)
    assert told == sorted(told)
    blocks = len(network.seen)
    network.seen.clear()
    with pytest.raises(CancelledError):
        segmenter.segment(Volume(voxels, np.eye(4)), cancel=lambda: len(network.seen) >= 3)
    assert len(network.seen) == 3 < blocks


def test_voxels_that_are_not_finite_are_background():
    voxels, _ = cube(levels=4)
    voxels[10:20, 10:20, 10:20] = np.nan
    result = Segmenter(with_network(volumetric(), BandNetwork()), "cpu").segment(Volume(voxels, np.eye(4)))
    assert not result.labelmap[10:20, 10:20, 10:20].any()
    assert result.warnings


def test_a_bundle_of_u_rwkv_is_written_read_and_segments(tmp_path):
    torch.manual_seed(0)
    network = build_network("u-rwkv", variant="T", num_classes=5)
    bundle = write_bundle(tmp_path / "b", volumetric(), network, half=True)
    bundle.verify()
    voxels, _ = cube((40, 40, 40))
    result = Segmenter(read_bundle(tmp_path / "b"), "cpu", engine="torch").segment(Volume(voxels, np.eye(4)))
    assert result.labelmap.shape == voxels.shape


def test_blocks_and_slices_are_not_mixed_up():
    with pytest.raises(ValueError, match="takes blocks"):
        BundleConfig.model_validate(config(architecture="u-rwkv").model_dump())
    with pytest.raises(ValueError, match="takes slices"):
        BundleConfig.model_validate({**volumetric().model_dump(), "architecture": "rwkv-unet"})


def test_paper_mode_is_refused():
    segmenter = Segmenter(with_network(volumetric(), BandNetwork()), "cpu", "paper")
    with pytest.raises(InputError, match="Paper mode"):
        segmenter.segment(Volume(cube()[0], np.eye(4)))


def test_blocks_need_no_monai(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)
    segmenter = Segmenter(with_network(volumetric(), BandNetwork()), "cpu")
    assert segmenter.segment(Volume(cube()[0], np.eye(4))).labelmap.any()


def test_an_encoder_of_another_architecture_does_not_fit(tmp_path):
    encoder = write_bundle(
        tmp_path / "e", config(kind="encoder"), build_network("rwkv-unet", variant="T", num_classes=5)
    )
    with pytest.raises(BundleError, match="does not fit u-rwkv T"):
        encoder.load_encoder(build_network("u-rwkv", variant="T", num_classes=5))
