"""From a few slices to the whole structure, as a user would ask for it, with everything that goes wrong."""

import threading

import numpy as np
import pytest

from rwkv_core import Volume, spread
from rwkv_core.errors import CancelledError, InputError
from rwkv_core.spreading import drawn as drawn_module
from rwkv_core.spreading import standing
from rwkv_core.spreading.classifier import Samples, VoxelClassifier
from rwkv_core.vocabulary import AXES, SliceIndex


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / max(np.count_nonzero(a) + np.count_nonzero(b), 1)


def volume_of(array, spacing=(1.0, 1.0, 1.0)):
    return Volume(array, np.diag([*spacing, 1.0]))


def slices_of(axis, *indices):
    return [SliceIndex(AXES[axis], index) for index in indices]


def drawn(truth, slices, into=None):
    """The user's labelmap: the truth in the slices, `into` elsewhere."""
    labelmap = np.zeros_like(truth) if into is None else into.copy()
    for index in slices:
        index.of(labelmap)[...] = index.of(truth)
    return labelmap


def few_steps(samples, cancelled, **_):
    return VoxelClassifier(samples, copies=1, steps=20, cancelled=cancelled)


@pytest.fixture
def learned():
    """For tests of how good an answer is: the classifier takes all of its steps."""


@pytest.fixture(autouse=True)
def steps(request, monkeypatch):
    """Elsewhere, it takes few: what must not change does not depend on what it has learned."""
    if "learned" not in request.fixturenames:
        for module in (drawn_module, standing):
            monkeypatch.setattr(module, "VoxelClassifier", few_steps)


@pytest.fixture(scope="module")
def phantom():
    """A bright bent tube (1) beside a darker ball (2), in noise; 40 slices of 48 x 44."""
    k, j, i = np.mgrid[:40, :48, :44].astype(float)
    truth = np.zeros(k.shape, np.uint8)
    tube = (j - 24 - 9 * np.sin(k / 6)) ** 2 + (i - 14) ** 2 < 36
    truth[tube & (k > 3) & (k < 36)] = 1
    truth[(k - 20) ** 2 + (j - 24) ** 2 + (i - 33) ** 2 < 64] = 2
    noise = np.random.default_rng(0).normal(0, 0.08, k.shape)
    return volume_of((np.array([0.2, 1.0, 0.6])[truth] + noise).astype(np.float32)), truth


def elsewhere(shape, slices):
    free = np.ones(shape, bool)
    for index in slices:
        index.of(free)[...] = False
    return free


def test_image_shows_what_lies_between_slices(phantom, learned):
    volume, truth = phantom
    slices = slices_of(0, 9, 20, 31)
    labelmap = drawn(truth, slices)
    answer = spread(volume, labelmap, slices)
    free = elsewhere(truth.shape, slices)
    for value in (1, 2):
        assert dice((answer.labelmap == value) & free, (truth == value) & free) > 0.9
    for index in slices:
        assert np.array_equal(index.of(answer.labelmap), index.of(truth))
    assert [structure.value for structure in answer.structures] == [1, 2]
    assert all(structure.score is not None and 0 <= structure.score <= 1 for structure in answer.structures)
    assert labelmap.sum() == drawn(truth, slices).sum()  # the user's array is as it was


def test_next_slice_is_one_that_was_not_given(phantom):
    volume, truth = phantom
    slices = slices_of(0, 9, 31)
    answer = spread(volume, drawn(truth, slices), slices, keep=slices_of(0, 20))
    assert answer.next_slice is not None
    assert answer.next_slice.axis == "K" and answer.next_slice.index not in (9, 20, 31)


def test_second_answer_takes_the_features_of_the_first(phantom):
    volume, truth = phantom
    first = spread(volume, drawn(truth, slices_of(0, 9, 31)), slices_of(0, 9, 31), [1])
    slices = slices_of(0, 9, 20, 31)
    second = spread(volume, drawn(truth, slices), slices, [1], features=first.features)
    assert second.features is first.features


@pytest.mark.parametrize("axis", [1, 2])
def test_any_plane(phantom, learned, axis):
    volume, truth = phantom
    places = np.flatnonzero((truth == 1).any(tuple(other for other in range(3) if other != axis)))
    slices = slices_of(axis, *places[[len(places) // 5, len(places) // 2, 4 * len(places) // 5]].tolist())
    answer = spread(volume, drawn(truth, slices), slices, [1])
    free = elsewhere(truth.shape, slices)
    assert dice((answer.labelmap == 1) & free, (truth == 1) & free) > 0.85


def test_two_planes_at_once(phantom, learned):
    volume, truth = phantom
    slices = [SliceIndex("K", 12), SliceIndex("K", 28), SliceIndex("I", 14)]
    answer = spread(volume, drawn(truth, slices), slices, [1])
    free = elsewhere(truth.shape, slices)
    assert dice((answer.labelmap == 1) & free, (truth == 1) & free) > 0.9
    for index in slices:
        assert np.array_equal(index.of(answer.labelmap) == 1, index.of(truth) == 1)


def test_image_that_shows_nothing_gives_no_less_than_shapes(learned):
    k, j, i = np.mgrid[:30, :40, :40].astype(float)
    truth = ((k - 15) ** 2 + (j - 20) ** 2 + (i - 20) ** 2 < 144).astype(np.uint8)
    noise = np.random.default_rng(1).normal(0, 1, k.shape).astype(np.float32)
    slices = slices_of(0, 6, 11, 15, 19, 24)
    answer = spread(volume_of(noise), drawn(truth, slices), slices)
    free = elsewhere(truth.shape, slices)
    assert dice((answer.labelmap == 1) & free, (truth == 1) & free) > 0.9


def test_labels_that_were_not_shown_do_not_change_by_a_voxel(phantom):
    volume, truth = phantom
    before = np.zeros_like(truth)
    before[:, 36:, :] = 7  # overlaps with the tube, and no slice shows it
    before[:, :3, :] = 5
    slices = slices_of(0, 9, 20)
    labelmap = drawn(np.where(before > 0, before, truth), slices, before)
    answer = spread(volume, labelmap, slices, [1], before=before)
    for value in (5, 7):
        assert np.array_equal(answer.labelmap == value, labelmap == value)
    assert (answer.labelmap == 2).sum() == (labelmap == 2).sum()


def test_a_new_structure_takes_voxels_from_the_label_it_was_painted_over(phantom, learned):
    volume, truth = phantom
    before = np.full_like(truth, 4)
    slices = slices_of(0, 9, 20, 31)
    labelmap = drawn(np.where(truth == 1, 1, 4).astype(np.uint8), slices, before)
    answer = spread(volume, labelmap, slices, before=before)
    assert [structure.value for structure in answer.structures] == [1]
    free = elsewhere(truth.shape, slices)
    assert dice((answer.labelmap == 1) & free, (truth == 1) & free) > 0.9
    assert set(np.unique(answer.labelmap)) == {1, 4}


def test_a_locked_label_neither_gains_nor_loses(phantom):
    volume, truth = phantom
    before = np.full_like(truth, 4)
    slices = slices_of(0, 9, 20, 31)
    labelmap = drawn(np.where(truth == 1, 1, 4).astype(np.uint8), slices, before)
    answer = spread(volume, labelmap, slices, before=before, locked=[4])
    assert np.array_equal(answer.labelmap == 4, labelmap == 4)


def test_a_right_answer_that_stood_stays(phantom):
    volume, truth = phantom
    slices = slices_of(0, 9, 20, 31)
    answer = spread(volume, truth, slices, [1, 2], before=truth)
    assert np.array_equal(answer.labelmap, truth)
    assert {structure.method for structure in answer.structures} == {"standing"}


def test_a_wrong_answer_that_stood_is_mended(phantom, learned):
    volume, truth = phantom
    before = np.roll(truth, 5, axis=1)
    slices = slices_of(0, 9, 15, 20, 25, 31)
    answer = spread(volume, drawn(truth, slices, before), slices, before=before)
    free = elsewhere(truth.shape, slices)
    for value in (1, 2):
        now = dice((answer.labelmap == value) & free, (truth == value) & free)
        assert now > 0.85 > dice((before == value) & free, (truth == value) & free)


def test_a_known_structure_is_mended_by_the_one_slice_that_shows_it(learned):
    """Of two balls a model finds one too large, the other too small: neither's slice foretells the other's error."""
    k, j, i = np.mgrid[:40, :48, :44].astype(float)
    distances = [np.sqrt((k - middle) ** 2 + (j - 24) ** 2 + (i - 22) ** 2) for middle in (10, 30)]
    truth = np.select([distance < 7.5 for distance in distances], [1, 2]).astype(np.uint8)
    before = np.select([distances[0] < 9.5, distances[1] < 5.5], [1, 2]).astype(np.uint8)
    probabilities = {
        value: (1 / (1 + np.exp(distance - radius))).astype(np.float16)
        for value, distance, radius in zip((1, 2), distances, (9.5, 5.5), strict=True)
    }
    noise = np.random.default_rng(0).normal(0, 0.05, k.shape)
    volume = volume_of(((truth > 0) + noise).astype(np.float32))
    slices = slices_of(0, 10, 30)
    answer = spread(volume, drawn(truth, slices, before), slices, before=before, probabilities=probabilities)
    free = elsewhere(truth.shape, slices)
    for value in (1, 2):
        now = dice((answer.labelmap == value) & free, (truth == value) & free)
        assert now > 0.9 > dice((before == value) & free, (truth == value) & free)


def test_a_structure_that_a_model_knows_is_mended_rather_than_drawn_anew(phantom):
    volume, truth = phantom
    before = np.roll(truth, 5, axis=1)
    slices = slices_of(0, 9, 15, 20, 25, 31)
    labelmap = drawn(truth, slices, before)
    probabilities = {value: (0.9 * (before == value)).astype(np.float16) for value in (1, 2)}
    known = spread(volume, labelmap, slices, before=before, probabilities=probabilities)
    assert {structure.method for structure in known.structures} <= {"standing", "classifier"}
    unknown = spread(volume, labelmap, slices, before=before)
    assert {structure.method for structure in unknown.structures} & {"mixture", "interpolation"}


def test_an_answer_that_stood_nowhere_near_is_drawn_anew(phantom, learned):
    volume, truth = phantom
    before = np.zeros_like(truth)
    before[18:22, 2:6, 2:6] = 2
    slices = slices_of(0, 15, 20, 25)
    answer = spread(volume, drawn(truth, slices, before), slices, [2], before=before)
    free = elsewhere(truth.shape, slices)
    assert dice((answer.labelmap == 2) & free, (truth == 2) & free) > 0.85


def test_an_answer_that_is_right_in_one_slice_alone_is_drawn_anew(learned):
    """As one from a single slice is; the shape of a thin structure that moves this far foretells nothing."""
    k, j, i = np.mgrid[:40, :48, :44].astype(float)
    truth = ((j - 24 - 8 * np.sin(k / 7)) ** 2 + (i - 22) ** 2 < 6).astype(np.uint8)
    volume = volume_of((truth + np.random.default_rng(0).normal(0, 1, k.shape)).astype(np.float32))
    before = np.where(np.abs(k - 20) < 3, truth, 0).astype(np.uint8)
    slices = slices_of(0, 8, 20, 32)
    answer = spread(volume, drawn(truth, slices, before), slices, before=before)
    free = elsewhere(truth.shape, slices)
    assert dice((before == 1) & free, (truth == 1) & free) < 0.3
    assert dice((answer.labelmap == 1) & free, (truth == 1) & free) > 0.7


def test_what_was_erased_in_the_slices_goes_elsewhere_too(phantom, learned):
    volume, truth = phantom
    before = np.where((volume.array > 0.8) & (truth == 0), 3, truth).astype(np.uint8)
    before[:, 10:20, 30:] = 3  # no structure at all, dark in the image
    slices = slices_of(0, 9, 15, 20, 25, 31)
    answer = spread(volume, drawn(truth, slices, before), slices, before=before)
    free = elsewhere(truth.shape, slices)
    assert 3 in {got.value for got in answer.structures}
    assert np.count_nonzero((answer.labelmap == 3) & free) < 0.1 * np.count_nonzero((before == 3) & free)
    assert np.array_equal(answer.labelmap == 1, truth == 1)


def test_a_slice_without_the_structure_ends_it(phantom):
    volume, truth = phantom
    slices = slices_of(0, 2, 9, 20, 31, 37)
    answer = spread(volume, drawn(truth, slices), slices, [1])
    assert not (answer.labelmap[:2] == 1).any() and not (answer.labelmap[38:] == 1).any()


def test_kept_slices_stay(phantom):
    volume, truth = phantom
    slices = slices_of(0, 9, 31)
    answer = spread(volume, drawn(truth, slices), slices, keep=[SliceIndex("K", 20), SliceIndex("J", 24)])
    assert not answer.labelmap[20].any()
    assert np.array_equal(answer.labelmap[:, 24], drawn(truth, slices)[:, 24])


def test_one_slice(phantom, learned):
    volume, truth = phantom
    answer = spread(volume, drawn(truth, slices_of(0, 20)), slices_of(0, 20))
    free = elsewhere(truth.shape, slices_of(0, 20))
    assert dice((answer.labelmap == 2) & free, (truth == 2) & free) > 0.6
    assert all(structure.score is None for structure in answer.structures)


def test_one_slice_does_not_change_what_a_model_found(phantom):
    volume, truth = phantom
    before = np.roll(truth, 2, axis=1)
    slices = slices_of(0, 20)
    labelmap = drawn(truth, slices, before)
    answer = spread(volume, labelmap, slices, before=before)
    assert np.array_equal(answer.labelmap, labelmap) and {structure.method for structure in answer.structures} == {
        "standing"
    }


@pytest.mark.parametrize(
    ("shape", "spacing", "places"),
    [
        ((1, 32, 32), (1.0, 1.0, 1.0), [0]),  # a volume of one slice
        ((12, 32, 32), (0.5, 0.5, 10.0), [2, 6]),  # 20:1
        ((24, 32, 32), (1.0, 1.0, 1.0), [5, 6]),  # neighbors
        ((2, 3, 3), (1.0, 1.0, 1.0), [0]),
    ],
)
def test_unusual_grids(shape, spacing, places):
    truth = np.zeros(shape, np.uint8)
    truth[:, shape[1] // 4 : shape[1] // 2 + 1, shape[2] // 4 : shape[2] // 2 + 1] = 3
    image = (truth + np.random.default_rng(2).normal(0, 0.1, shape)).astype(np.float32)
    slices = slices_of(0, *places)
    answer = spread(volume_of(image, spacing), drawn(truth, slices), slices)
    assert answer.labelmap.shape == shape and set(np.unique(answer.labelmap)) <= {0, 3}
    for index in slices:
        assert np.array_equal(index.of(answer.labelmap), index.of(truth))


def test_one_voxel_and_slices_that_contradict_each_other(phantom):
    volume, truth = phantom
    labelmap = np.zeros_like(truth)
    labelmap[9, 20, 14] = 1
    labelmap[11] = 1
    labelmap[12] = 0
    slices = slices_of(0, 9, 11, 12)
    answer = spread(volume, labelmap, slices)
    for index in slices:
        assert np.array_equal(index.of(answer.labelmap), index.of(labelmap))
    single = np.zeros_like(truth)
    single[20, 24, 33] = 2
    assert spread(volume, single, slices_of(0, 20)).labelmap[20, 24, 33] == 2


def test_a_structure_that_branches():
    k, j, i = np.mgrid[:30, :40, :60].astype(float)
    apart = np.maximum(k - 12, 0)
    truth = ((j - 20) ** 2 + np.minimum((i - 30 - apart) ** 2, (i - 30 + apart) ** 2) < 25).astype(np.uint8)
    image = (truth + np.random.default_rng(3).normal(0, 0.1, k.shape)).astype(np.float32)
    slices = slices_of(0, 4, 15, 26)
    answer = spread(volume_of(image), drawn(truth, slices), slices)
    free = elsewhere(truth.shape, slices)
    assert dice((answer.labelmap == 1) & free, (truth == 1) & free) > 0.9


def test_voxels_that_are_not_finite_keep_their_labels(phantom):
    volume, truth = phantom
    array = volume.array.copy()
    array[14:18, 10:40, 5:40] = np.nan
    array[25, 24] = np.inf
    slices = slices_of(0, 9, 20, 31)
    answer = spread(Volume(array, volume.ijk_to_ras), drawn(truth, slices), slices)
    assert not answer.labelmap[14:18, 10:40, 5:40].any()
    assert dice(answer.labelmap[21:25] == 1, truth[21:25] == 1) > 0.85


def test_a_constant_volume_gives_the_shapes_between(phantom):
    _, truth = phantom
    slices = slices_of(0, 16, 20, 24)
    answer = spread(volume_of(np.zeros(truth.shape, np.int16)), drawn(truth, slices), slices, [2])
    free = elsewhere(truth.shape, slices)
    free[:16] = free[25:] = False
    assert dice((answer.labelmap == 2) & free, (truth == 2) & free) > 0.9


def test_mistakes_are_told(phantom):
    volume, truth = phantom
    slices = slices_of(0, 9)
    labelmap = drawn(truth, slices)
    with pytest.raises(InputError, match="differ in size"):
        spread(volume, labelmap[1:], slices)
    with pytest.raises(InputError, match="no slices"):
        spread(volume, labelmap, [])
    with pytest.raises(InputError, match="no slice 40 along K"):
        spread(volume, labelmap, slices_of(0, 40))
    with pytest.raises(InputError, match="hold no structure"):
        spread(volume, labelmap, slices_of(0, 10))
    with pytest.raises(InputError, match="Label 9 is in none"):
        spread(volume, labelmap, slices, [9])
    with pytest.raises(InputError, match="do not differ"):
        spread(volume, labelmap, slices, before=labelmap)
    with pytest.raises(InputError, match="whole numbers"):
        spread(volume, labelmap.astype(np.float32), slices)
    with pytest.raises(InputError, match="no finite value"):
        spread(volume_of(np.full(truth.shape, np.nan, np.float32)), labelmap, slices)


def test_cancelled(phantom):
    volume, truth = phantom
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(CancelledError):
        spread(volume, drawn(truth, slices_of(0, 9, 20)), slices_of(0, 9, 20), cancel=cancel)


def test_cancelled_while_it_learns(phantom):
    volume, truth = phantom
    slices = slices_of(0, 20)
    asked = []

    def after(count):
        asked.clear()
        return lambda: asked.append(None) or len(asked) > count

    spread(volume, drawn(truth, slices), slices, cancel=after(10**9))
    in_full = len(asked)
    for count in range(in_full):  # wherever it is asked
        with pytest.raises(CancelledError):
            spread(volume, drawn(truth, slices), slices, cancel=after(count))
    random = np.random.default_rng(0)
    samples = Samples(random.normal(size=(64, 3)), np.zeros((64, 1, 1)), random.integers(0, 2, 64))
    with pytest.raises(CancelledError):  # in the middle of a fit
        VoxelClassifier(samples, steps=50, cancelled=after(30))
    assert len(asked) == 31
