"""Axial, coronal and sagittal answers, averaged."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from torch import nn

from rwkv_core import Region, Segmenter, Volume
from rwkv_core.bundle.config import Islands
from rwkv_core.errors import CancelledError
from rwkv_core.inference.pipeline import run_each

from core.small_models import BandNetwork, QuadrantNetwork, config, with_network

PLANES = ("SPL", "AIL", "LIP")
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", [8, -6, 10], degrees=True).as_matrix()


def averaging(orientations=PLANES):
    """config.json of a model that averages over planes."""
    plain = config(orientations=orientations)
    return plain.model_copy(update={"preprocessing": plain.preprocessing.model_copy(update={"average": True})})


def block(shape=(70, 60, 50)):
    """A volume with a block in one corner, and the channels that BandNetwork finds there."""
    channel = np.zeros(shape, np.int64)
    channel[5:20, 8:25, 10:22] = 3
    return channel.astype(np.float32) / 4, channel


@pytest.mark.parametrize("matrix", [np.eye(4), OBLIQUE], ids=["upright", "oblique"])
def test_the_block_is_found_and_only_its_surroundings_go_through_every_plane(matrix):
    voxels, channel = block()
    network = BandNetwork()
    result = Segmenter(with_network(averaging(), network), "cpu", engine="torch").segment(Volume(voxels, matrix))
    assert np.array_equal(result.labelmap, channel)
    assert sorted(result.orientation.split("+")) == sorted(PLANES)
    assert result.slices < sum(voxels.shape)
    whole = max(shape[-1] * shape[-2] for shape in network.seen)
    assert sum(shape[-1] * shape[-2] < whole for shape in network.seen) > len(network.seen) / 2


class FullHeight(nn.Module):
    """Stand-in: what is bright is channel 1 in pictures of at least 56 rows, channel 2 in those that are cut."""

    def forward(self, image):
        channel = (image > 0.5).long() * (1 if image.shape[2] >= 56 else 2)
        return 10 * nn.functional.one_hot(channel[:, 0], 5).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("upward", [1, -1], ids=["toward superior", "toward inferior"])
@pytest.mark.parametrize(("first", "label"), [(10, 2), (0, 1)], ids=["whole", "the scan ends within"])
def test_where_a_scan_ends_within_a_structure_the_slices_that_show_it_whole_count_most(first, label, upward):
    voxels = np.zeros((48, 80, 80), np.float32)
    voxels[first:38, 10:70, 10:70] = 1
    segmenter = Segmenter(with_network(averaging(), FullHeight()), "cpu", engine="torch")
    result = segmenter.segment(Volume(voxels, np.diag([1, 1, upward, 1.0])))  # two planes of three have fewer rows
    assert (result.labelmap[voxels > 0] == label).all()


def mean_of(probabilities):
    """The geometric mean, normalised."""
    mean = np.exp(sum(np.log(each) for each in probabilities) / len(probabilities))
    return mean / mean.sum(0)


def test_the_label_is_that_of_the_mean_of_the_planes_logarithms():
    volume = Volume(np.zeros((40, 44, 36), np.float32), np.eye(4))
    alone = [
        Segmenter(with_network(config(orientations=(plane,)), QuadrantNetwork()), "cpu", engine="torch")
        .segment(volume, probabilities=True)
        .probabilities.astype(np.float64)
        for plane in PLANES
    ]
    mean = mean_of(alone)
    result = Segmenter(with_network(averaging(), QuadrantNetwork()), "cpu", engine="torch").segment(
        volume, probabilities=True
    )
    assert np.allclose(result.probabilities, mean, atol=2e-3)
    first, second = np.sort(mean, axis=0)[[-1, -2]]
    clear = first - second > 0.01
    assert clear.any()
    assert np.array_equal(result.labelmap[clear], mean.argmax(0)[clear])


def test_a_class_of_one_plane_is_not_asked_for_in_the_others():
    volume = Volume(np.zeros((40, 44, 36), np.float32), np.eye(4))
    settings, own = averaging(), PLANES[1]
    classes = [replace(entry, orientations=(own,)) if entry.value == 4 else entry for entry in settings.classes]
    alone = {}
    for plane in PLANES:
        segmenter = Segmenter(with_network(config(orientations=(plane,)), QuadrantNetwork()), "cpu", engine="torch")
        alone[plane] = segmenter.segment(volume, probabilities=True).probabilities.astype(np.float64)
    others = mean_of([probabilities[:4] / probabilities[:4].sum(0) for probabilities in alone.values()])
    expected = np.concatenate([others * (1 - alone[own][4]), alone[own][4:]])
    network = with_network(settings.model_copy(update={"classes": tuple(classes)}), QuadrantNetwork())
    result = Segmenter(network, "cpu", engine="torch").segment(volume, probabilities=True)
    assert np.allclose(result.probabilities, expected, atol=4e-3)
    clear = np.abs(expected[4] - expected[:4].max(0)) > 0.02
    assert clear.any()
    assert np.array_equal((result.labelmap == 4)[clear], (expected.argmax(0) == 4)[clear])


@pytest.mark.parametrize(
    ("spacing", "region"),
    [((1, 1, 4), None), ((1, 1, 1), Region(k=(10, 11))), ((1, 1, 1), Region(k=(10, 30))), ((1, 1, 1), None)],
    ids=["thick slices", "one slice", "thin slab", "too large for the memory"],
)
def test_one_plane_where_the_others_show_too_little_or_the_memory_is_short(spacing, region, request, monkeypatch):
    if "memory" in request.node.callspec.id:
        monkeypatch.setattr("rwkv_core.inference.plane_averaging._MOST_AVERAGED", 1_000_000)
    voxels, _ = block()
    volume = Volume(voxels, np.diag([*spacing, 1.0]))
    result = Segmenter(with_network(averaging(), BandNetwork()), "cpu", engine="torch").segment(volume, region)
    plain = Segmenter(with_network(config(orientations=PLANES), BandNetwork()), "cpu", engine="torch")
    assert result.orientation == "SPL"
    assert np.array_equal(result.labelmap, plain.segment(volume, region).labelmap)


def test_outside_the_region_nothing_is_labelled():
    voxels, channel = block()
    region = Region(i=(0, 40), j=(10, 50), k=(0, 60))
    result = Segmenter(with_network(averaging(), BandNetwork()), "cpu", engine="torch").segment(
        Volume(voxels, np.eye(4)), region, probabilities=True
    )
    outside = np.ones(channel.shape, bool)
    outside[region.as_slices()] = False
    assert np.array_equal(result.labelmap, np.where(outside, 0, channel))
    assert not result.probabilities[:, outside].any()
    assert np.allclose(result.probabilities[:, ~outside].sum(0), 1, atol=5e-3)


@pytest.mark.parametrize("region", [None, Region(i=(0, 40), j=(10, 50), k=(0, 60))], ids=["whole", "box"])
def test_probabilities_that_are_made_later_are_those_that_are_made_at_once(region):
    segmenter = Segmenter(with_network(averaging(), QuadrantNetwork()), "cpu", engine="torch")
    volume = Volume(block()[0], OBLIQUE)
    at_once = segmenter.segment(volume, region, probabilities=True)
    result = segmenter.segment(volume, region, probabilities="later")
    assert at_once.later is None and result.probabilities is None
    assert np.array_equal(result.labelmap, at_once.labelmap)
    box = (region or Region()).within(volume.array.shape).as_slices()
    assert np.array_equal(result.later(), at_once.probabilities[(slice(None), *box)])
    with pytest.raises(CancelledError):
        result.later(lambda: True)


def test_probabilities_of_one_plane_come_at_once():
    segmenter = Segmenter(with_network(config(), BandNetwork()), "cpu", engine="torch")
    result = segmenter.segment(Volume(block()[0], np.eye(4)), probabilities="later")
    assert result.later is None and result.probabilities is not None


def test_what_is_too_small_to_be_seen_at_first_is_found_all_the_same():
    channel = np.zeros((50, 50, 50), np.int64)
    channel[21:23, 20:30, 20:30] = 2  # between the slices that are looked at first
    result = Segmenter(with_network(averaging(), BandNetwork()), "cpu", engine="torch").segment(
        Volume(channel.astype(np.float32) / 4, np.eye(4))
    )
    assert np.array_equal(result.labelmap, channel)


def test_a_speck_far_away_is_looked_at_only_where_it_may_be_part_of_the_result():
    _, channel = block((120, 130, 110))
    channel[86:91, 110:112, 90:92] = 2
    volume, settings = Volume(channel.astype(np.float32) / 4, np.eye(4)), averaging()
    one_part = settings.model_copy(update={"remove_islands": Islands()})
    every, largest = (
        Segmenter(with_network(model, BandNetwork()), "cpu", engine="torch").segment(volume)
        for model in (settings, one_part)
    )
    assert np.array_equal(every.labelmap, channel)
    assert np.array_equal(largest.labelmap, np.where(channel == 3, 3, 0))
    assert largest.slices < every.slices / 2


def test_labels_that_stay_only_beside_others_are_not_looked_for_elsewhere():
    _, channel = block((120, 130, 110))
    channel[80:104, 96:120, 80:104] = 2  # as large as the block; 1 around it, between pixels
    volume, settings = Volume(channel.astype(np.float32) / 4, np.eye(4)), averaging()
    solid, loose = (
        Segmenter(
            with_network(settings.model_copy(update={"remove_islands": islands}), BandNetwork()), "cpu", engine="torch"
        ).segment(volume)
        for islands in (Islands(), Islands(loose=(1, 2)))
    )
    assert np.array_equal(loose.labelmap, np.where(channel == 3, 3, 0))
    assert loose.slices < solid.slices / 2


def test_voxels_that_are_not_finite_are_background():
    voxels, channel = block()
    voxels[10, 12, 12] = np.nan
    result = Segmenter(with_network(averaging(), BandNetwork()), "cpu", engine="torch").segment(
        Volume(voxels, np.eye(4))
    )
    assert result.labelmap[10, 12, 12] == 0
    assert (result.labelmap != channel).sum() == 1


def test_progress_counts_the_slices_of_all_planes():
    seen = []
    result = Segmenter(with_network(averaging(), BandNetwork()), "cpu", engine="torch").segment(
        Volume(block()[0], np.eye(4)), progress=lambda done, total: seen.append((done, total))
    )
    assert seen[0][0] == 0
    assert seen == sorted(seen, key=lambda step: step[0])
    assert seen[-1] == (result.slices, result.slices)


def test_cancelled_in_the_second_plane():
    reached = []
    with pytest.raises(CancelledError):
        Segmenter(with_network(averaging(), BandNetwork()), "cpu", engine="torch").segment(
            Volume(block()[0], np.eye(4)),
            progress=lambda done, total: reached.append(done),
            cancel=lambda: bool(reached) and reached[-1] > 50,
        )
    assert reached[-1] > 50


def test_pieces_are_all_done_and_the_first_exception_ends_them():
    done: list[int] = []
    run_each(range(20), done.append)
    assert sorted(done) == list(range(20))

    def fail(piece: int) -> None:
        if piece == 3:
            raise CancelledError

    with pytest.raises(CancelledError):
        run_each(range(1000), fail)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rwkv-unet")]
