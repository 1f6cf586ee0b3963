"""Where a model is unsure."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from rwkv_core import Region, Segmenter, Volume
from rwkv_core.errors import InputError
from rwkv_core.inference.uncertainty import averaged_probabilities, entropy, sided, slice_scores
from rwkv_core.vocabulary import SegmentClass

from core.small_models import BandNetwork, config, with_network

RAS = np.eye(4)


class LeftNetwork(nn.Module):
    """Stand-in: class 1 in the left half of the picture, class 2 in the right half, whatever is in it."""

    def forward(self, image):
        batch, _, height, width = image.shape
        channel = 1 + (torch.arange(width) >= width / 2).long()
        return 20 * nn.functional.one_hot(channel.expand(batch, height, -1), 5).permute(0, 3, 1, 2).float()


class AxialNetwork(nn.Module):
    """Stand-in: of a volume of 32 x 64 x 96, class 1 with 0.6 in axial slices, class 2 in the others."""

    def forward(self, image):
        batch, _, height, width = image.shape
        chances = torch.tensor([0.4, 0.6, 0, 0, 0] if height == 64 else [0, 0, 1.0, 0, 0])
        return chances.clamp_min(1e-9).log().view(1, 5, 1, 1).expand(batch, -1, height, width)


def segmenter(network, orientations=("SPL",), **more):
    return Segmenter(with_network(config(orientations=orientations, **more), network), "cpu")


def test_entropy_is_high_where_classes_are_close():
    p = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4, [0, 0, 0, 0]], np.float16).T[:, None, None, :]
    found = entropy(p)
    assert found.shape == (1, 1, 4)
    assert found.ravel() == pytest.approx([0, 0.5, 1, 0], abs=1e-3)


def test_doubt_lies_between_the_bands_of_a_model():
    array = np.tile(np.linspace(0, 1, 33, dtype=np.float32), (16, 16, 1))
    result = segmenter(BandNetwork()).segment(Volume(array, RAS), probabilities=True)
    profile = entropy(result.probabilities).mean((0, 1))
    assert profile[[4, 12, 20, 28]].min() > 2 * profile[[8, 16, 24]].max()  # halfway between, and at the bands


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_slice_has_a_score(axis):
    doubt = np.zeros((4, 5, 6), np.float32)
    index = [slice(None)] * 3
    for place, amount in ((1, 0.5), (2, 0.9), (3, 0.1)):
        index[axis] = place
        doubt[tuple(index)] = amount
    assert slice_scores(doubt, axis)[:4] == pytest.approx([0, 0.5, 0.9, 0.1])


def test_flips_show_what_depends_on_the_side():
    volume = Volume(np.zeros((4, 16, 16), np.float32), RAS)
    certain = segmenter(LeftNetwork())
    plain = averaged_probabilities(certain, volume)
    assert entropy(plain).max() < 0.01
    both = averaged_probabilities(certain, volume, flips=True)
    assert both[1:3] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_views_agree_where_the_model_sees_single_voxels(signs):
    channel = np.random.default_rng(0).integers(0, 5, (16, 16, 32))
    volume = Volume(channel.astype(np.float32) / 4, np.diag([*signs, 1.0]))
    steps = []
    model = segmenter(BandNetwork(), ("SPL", "AIL", "LIP"))
    mean = averaged_probabilities(model, volume, True, True, progress=lambda *at: steps.append(at))
    assert np.array_equal(mean.argmax(0), channel)
    assert steps == sorted(steps)
    assert steps[-1] == (16 + 16 + 16 + 16 + 32,) * 2  # axial and coronal twice, sagittal once
    assert model.preprocessing.orientations == ("SPL", "AIL", "LIP")  # as it was


def test_a_class_that_one_plane_tells_of_is_asked_there_alone():
    volume = Volume(np.zeros((32, 64, 96), np.float32), RAS)
    told = config(orientations=("SPL", "AIL", "LIP"))
    axial = replace(told.classes[0], orientations=("SPL",))
    told = told.model_copy(update={"classes": (axial, *told.classes[1:])})
    model = Segmenter(with_network(told, AxialNetwork()), "cpu")
    region = Region(k=(4, 20), j=(10, 60), i=(8, 90))
    mean = averaged_probabilities(model, volume, planes=True, region=region)
    for channel, expected in enumerate((0.4 / 3, 0.6, 0.4 * 2 / 3, 0, 0)):
        assert mean[channel, 4:20, 10:60, 8:90] == pytest.approx(expected, abs=2e-3)
    alone = averaged_probabilities(model, volume, region=region)
    assert alone[1, 4:20, 10:60, 8:90] == pytest.approx(0.6, abs=2e-3)


def test_a_region_off_the_centre_comes_back_in_its_place():
    channel = np.random.default_rng(1).integers(0, 5, (6, 16, 32))
    volume = Volume(channel.astype(np.float32) / 4, RAS)
    mean = averaged_probabilities(segmenter(BandNetwork()), volume, flips=True, region=Region(i=(2, 20), k=(1, 4)))
    assert np.array_equal(mean[:, 1:4, :, 2:20].argmax(0), channel[1:4, :, 2:20])
    mean[:, 1:4, :, 2:20] = 0
    assert not mean.any()


def test_a_model_that_tells_left_from_right_is_not_flipped():
    def named(name):
        return SegmentClass(value=1, name=name, color=(1, 2, 3))

    assert sided([named("Left kidney")])
    assert sided([named("Liver"), named("kidney_R")])
    assert not sided([named("Cleft"), named("Upright")])
    kidneys = config().model_copy(update={"classes": (named("Left kidney"),)})
    with pytest.raises(InputError, match="left from right"):
        averaged_probabilities(
            Segmenter(with_network(kidneys, LeftNetwork()), "cpu"), Volume(np.zeros((4, 16, 16)), RAS), flips=True
        )
