import itertools
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from rwkv_core import Region, Segmenter, Volume
from rwkv_core.bundle.config import Percentile, ZScore
from rwkv_core.errors import BundleError, CancelledError, DeviceError, InputError
from rwkv_core.inference.intensity import fit_intensity, measured
from rwkv_core.inference.preprocessing import make_resampler
from rwkv_core.vocabulary import SegmentOptions

from core.small_models import BandNetwork, BlurredBandNetwork, QuadrantNetwork, config, with_network

RAS = np.eye(4)
DIRECTIONS = {"R": 0, "A": 1, "S": 2}


def oriented(order, signs, spacing=(1.0, 1.0, 1.0)):
    """IJK to RAS: I, J, K run along the RAS axes `order`, forward or backward."""
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for ijk, (ras, sign) in enumerate(zip(order, signs, strict=True)):
        matrix[ras, ijk] = sign * spacing[ijk]
    return matrix


def levels(shape=(6, 20, 24)):
    """A volume whose voxels are 0, 1/4, ... 1 at random, and the channel that BandNetwork finds there."""
    channel = np.random.default_rng(1).integers(0, 5, shape)
    return channel.astype(np.float32) / 4, channel


@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)), ids=str)
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize(
    ("code", "down", "right"), [("SPL", (1, -1), (0, -1)), ("AIL", (2, -1), (0, -1)), ("SLP", (0, -1), (1, -1))]
)
def test_the_network_sees_canonical_slices_in_every_orientation(order, signs, code, down, right):
    size = (18, 22, 26)  # I, J, K
    matrix = oriented(order, signs)
    volume = Volume(np.zeros(size[::-1], np.float32), matrix)
    result = Segmenter(with_network(config(orientations=(code,)), QuadrantNetwork()), "cpu").segment(volume)
    index = np.indices(size[::-1])[::-1].reshape(3, -1)  # I, J, K of every voxel
    world = matrix[:3, :3] @ index
    centre = matrix[:3, :3] @ ((np.array(size) - 1) / 2)
    lower = (world[down[0]] - centre[down[0]]) * down[1] > 0
    righter = (world[right[0]] - centre[right[0]]) * right[1] > 0
    assert np.array_equal(result.labelmap.ravel(), 1 + 2 * lower + righter)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64", "uint64", "float32", "float64", ">f4"])
def test_every_numeric_type(dtype):
    _, channel = levels()
    window = {"method": "window", "low": 0, "high": 4}
    result = Segmenter(with_network(config(intensity=window), BandNetwork()), "cpu").segment(
        Volume(channel.astype(dtype), RAS)
    )
    assert np.array_equal(result.labelmap, channel)


def test_label_values_are_those_of_the_classes():
    array, channel = levels()
    result = Segmenter(with_network(config(values=(7, 300, 20, 1)), BandNetwork()), "cpu").segment(Volume(array, RAS))
    assert result.labelmap.dtype == np.uint16
    assert np.array_equal(result.labelmap, np.array([0, 7, 300, 20, 1])[channel])
    assert result.volumes_ml()["Class 20"] == pytest.approx(np.count_nonzero(channel == 3) / 1000)


def test_slices_stream_through_in_small_batches_with_progress():
    array, channel = levels((300, 32, 32))
    network = BandNetwork()
    steps = []
    result = Segmenter(with_network(config(), network), "cpu").segment(
        Volume(array, RAS), progress=lambda done, total: steps.append((done, total))
    )
    assert np.array_equal(result.labelmap, channel)
    assert max(batch for batch, *_ in network.seen) < 300
    assert steps[0] == (0, 300)
    assert steps[-1] == (300, 300)
    assert steps == sorted(steps)
    assert result.slices == 300


def test_cancel_by_function_and_by_event():
    array, _ = levels((300, 32, 32))
    segmenter = Segmenter(with_network(config(), BandNetwork()), "cpu")
    seen = []
    with pytest.raises(CancelledError):
        segmenter.segment(
            Volume(array, RAS), progress=lambda done, total: seen.append(done), cancel=lambda: len(seen) > 1
        )
    assert seen[-1] < 300
    event = threading.Event()
    event.set()
    with pytest.raises(CancelledError):
        segmenter.segment(Volume(array, RAS), cancel=event)


def test_region_is_labelled_and_nothing_else():
    array, channel = levels()
    region = Region.parse("4:12,:,2:5")
    result = Segmenter(with_network(config(), BandNetwork()), "cpu").segment(Volume(array, RAS), region)
    expected = np.zeros_like(channel)
    expected[2:5, :, 4:12] = channel[2:5, :, 4:12]
    assert np.array_equal(result.labelmap, expected)


@pytest.mark.parametrize("average", [False, True])
def test_a_box_merges_seamlessly(average):
    """At its border, what lies outside is looked at: no edge of an image there."""
    array = ndimage.gaussian_filter(np.random.default_rng(2).random((64, 64, 64)), 3).astype(np.float32)
    array = (array - array.min()) / np.ptp(array)
    model = with_network(config(orientations=("SPL", "AIL", "LIP")), BlurredBandNetwork())
    segmenter = Segmenter(model, "cpu", engine="torch")
    volume, region = Volume(array, RAS), Region(i=(12, 50), j=(10, 48), k=(20, 56))
    whole = segmenter.segment(volume, options=SegmentOptions(average=average)).labelmap
    box = segmenter.segment(volume, region, True, options=SegmentOptions(average=average))
    inside = region.as_slices()
    assert np.mean(box.labelmap[inside] == whole[inside]) > 0.9999
    outside = np.ones(array.shape, bool)
    outside[inside] = False
    assert not box.labelmap[outside].any() and not box.probabilities[:, outside].any()


def test_models_that_stretch_see_a_box_larger_and_a_little_around_it():
    class Watching(BandNetwork):
        def forward(self, image):
            brightest.append(float(image.max()))
            return super().forward(image)

    brightest, network = [], Watching()
    array = np.ones((2, 80, 96), np.float32)
    array[:, 20:60, 30:70] = 0
    model = config(resampling={"method": "stretch", "height": 64, "width": 64})
    segmenter = Segmenter(with_network(model, network), "cpu", engine="torch")
    result = segmenter.segment(Volume(array, RAS), Region(i=(30, 70), j=(20, 60)))
    assert {shape[2:] for shape in network.seen} == {(64, 64)} and brightest[0] == 1
    assert not result.labelmap[:, 22:58, 32:68].any()
    result.labelmap[:, 20:60, 30:70] = 0
    assert not result.labelmap.any()


def test_intensities_are_measured_on_the_whole_volume_also_for_a_region():
    array, channel = levels()
    array = array * 800 - 300
    segmenter = Segmenter(
        with_network(config(intensity={"method": "percentile", "low": 0, "high": 100}), BandNetwork()), "cpu"
    )
    array[:, :, :4] = 100  # the region has less contrast than the volume
    channel[:, :, :4] = 2
    result = segmenter.segment(Volume(array, RAS), Region.parse("0:4,:,:"))
    assert np.array_equal(result.labelmap[:, :, :4], channel[:, :, :4])


def test_islands_are_removed_from_whole_volumes_of_models_that_ask_for_it():
    array = np.zeros((8, 40, 40), np.float32)
    array[2:7, 5:25, 5:20] = 0.5
    array[2:7, 5:25, 20:30] = 0.75  # touches: one part with the former
    array[0:3, 30:36, 30:36] = 1
    channel = (array * 4).astype(int)
    cleaned = np.where(channel == 4, 0, channel)
    volume = Volume(array, RAS)
    asked = Segmenter(with_network(config(remove_islands={}), BandNetwork()), "cpu")
    assert np.array_equal(asked.segment(volume).labelmap, cleaned)
    part = Region.parse(":,:,0:8")
    assert np.array_equal(asked.segment(volume, part).labelmap, channel)
    other = Segmenter(with_network(config(), BandNetwork()), "cpu")
    assert np.array_equal(other.segment(volume).labelmap, channel)
    nothing = asked.segment(Volume(np.full((2, 20, 20), 0.01, np.float32), RAS))
    assert not nothing.labelmap.any()


def test_a_volume_is_prepared_once_and_asked_often(monkeypatch):
    array, channel = levels()
    segmenter = Segmenter(
        with_network(config(intensity={"method": "percentile", "low": 0, "high": 100}), BandNetwork()), "cpu"
    )
    prepared = segmenter.prepare(Volume(array, RAS))

    def refuse(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr("rwkv_core.inference.segmenter.fit_intensity", refuse)
    for k in range(6):
        result = prepared.segment(Region(k=(k, k + 1)))
        assert np.array_equal(result.labelmap[k], channel[k]) and result.slices == 1
    assert np.array_equal(prepared.segment().labelmap, channel)
    again = segmenter.prepare(Volume(array, RAS), measured=prepared.scale)
    assert np.array_equal(again.segment().labelmap, channel)


def test_islands_and_smoothing_on_request():
    array = np.zeros((8, 40, 40), np.float32)
    array[2:7, 5:25, 5:20] = 0.5
    array[0:3, 30:36, 30:36] = 1
    array[5:7, 32:36, 5:9] = 0.5
    array[4, 12, 12] = np.nan
    channel = (np.nan_to_num(array) * 4).astype(int)
    segmenter = Segmenter(with_network(config(), BandNetwork()), "cpu")
    cleaned = channel.copy()
    cleaned[5:7, 32:36, 5:9] = 0
    assert np.array_equal(
        segmenter.segment(Volume(array, RAS), options=SegmentOptions(islands="remove")).labelmap, cleaned
    )
    part = segmenter.segment(
        Volume(array, RAS), Region.parse(":,:,4:8"), options=SegmentOptions(islands="remove")
    ).labelmap
    assert np.array_equal(part[4:], cleaned[4:]) and not part[:4].any()
    smooth = segmenter.segment(Volume(array, RAS), options=SegmentOptions(smoothing=2.0)).labelmap
    assert smooth[4, 15, 12] == 2 and smooth[4, 12, 12] == 0  # no value, no label
    assert not smooth[5:7, 32:36, 5:9].any()
    with pytest.raises(InputError, match="not negative"):
        SegmentOptions(smoothing=-1)


@pytest.mark.parametrize("classes", [2, 9, 300])
@pytest.mark.parametrize("align_corners", [False, True])
def test_labels_are_those_of_the_enlarged_logits(classes, align_corners):
    logits = torch.randn(2, classes, 28, 24, generator=torch.Generator().manual_seed(0))
    stretch = {"method": "stretch", "height": 32, "width": 32, "align_corners": align_corners}
    resampler = make_resampler(config(stretch).preprocessing, (61, 47), (1.0, 1.0))
    resampler = replace(resampler, inner=(28, 24), size=(28, 24))
    large = torch.nn.functional.interpolate(logits, size=(61, 47), mode="bilinear", align_corners=align_corners)
    assert torch.equal(resampler.labels(logits).long(), large.argmax(1))


@pytest.mark.parametrize("restore", ["logits", "nearest"])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("interpolation", "paper"), [("linear", False), ("cubic", False), ("linear", True)])
@pytest.mark.parametrize("intensity", [{"method": "zscore"}, {"method": "slice-min-max"}])
def test_arrays_are_prepared_and_restored_as_tensors_are(restore, align_corners, interpolation, paper, intensity):
    stretch = {
        "method": "stretch", "height": 32, "width": 64, "interpolation": interpolation, "align_corners": align_corners,
    }  # fmt: skip
    settings = config(stretch, intensity=intensity, restore=restore).preprocessing
    random = np.random.default_rng(0)
    slices = random.normal(100, 30, (3, 61, 47)).astype(np.float32)
    slices[1, 5, 5] = np.inf
    scale, resampler = fit_intensity(settings.intensity, slices), make_resampler(settings, (61, 47), (1, 1), paper)
    inputs = resampler.to_network(scale(slices), scale.padding)
    with torch.inference_mode():
        tensors = resampler.to_network(scale(torch.from_numpy(slices)), scale.padding)
    assert np.allclose(inputs, tensors.numpy(), atol=2e-5) and (not paper or np.array_equal(inputs, tensors.numpy()))
    logits = random.normal(0, 3, (3, 5, 32, 64)).astype(np.float32)
    soft = torch.nn.functional.interpolate(
        torch.from_numpy(logits), size=(61, 47), mode="bilinear", align_corners=align_corners or paper
    )
    assert np.allclose(resampler.probabilities(logits), soft.softmax(1).numpy(), atol=2e-5)
    assert np.array_equal(resampler.labels(logits), resampler.labels(torch.from_numpy(logits)).numpy())
    if restore == "logits" and not paper:
        assert np.array_equal(resampler.labels(logits), soft.argmax(1).numpy())


def test_fortran_order_and_constant_slabs_are_measured_as_any_other():
    array = np.asfortranarray(np.random.default_rng(0).normal(50, 9, (7, 300, 2100)))  # several parts
    array[0, 0, 0] = np.nan
    finite = array[np.isfinite(array)]
    zscore = fit_intensity(ZScore(method="zscore"), array)
    assert (zscore.not_finite, zscore.minimum) == (1, finite.min())
    assert np.allclose((zscore.offset, zscore.unit), (finite.mean(), finite.std()))
    exact = fit_intensity(Percentile(method="percentile", low=1, high=99), array, exact=True)
    assert np.allclose((exact.offset, exact.offset + exact.unit), np.percentile(finite, [1, 99]))


def test_region_outside_is_an_error():
    array, _ = levels()
    with pytest.raises(InputError, match="24 x 20 x 6"):
        Segmenter(with_network(config(), BandNetwork()), "cpu").segment(Volume(array, RAS), Region.parse("0:25,:,:"))


def test_probabilities():
    array, _ = levels()
    result = Segmenter(with_network(config(), BandNetwork()), "cpu").segment(
        Volume(array, oriented((2, 0, 1), (1, -1, 1))), probabilities=True
    )
    assert result.probabilities.shape == (5, *array.shape)
    assert np.allclose(result.probabilities.astype(np.float32).sum(0), 1, atol=5e-3)
    assert np.array_equal(result.probabilities.argmax(0), result.labelmap)


def test_voxels_that_are_not_finite_become_background_and_are_reported():
    array, channel = levels()
    array[1, 2, 3], array[4, 5, 6], array[0, 0, 0] = np.nan, np.inf, -np.inf
    result = Segmenter(
        with_network(config(intensity={"method": "percentile", "low": 0, "high": 100}), BandNetwork()), "cpu"
    ).segment(Volume(array, RAS))
    channel[1, 2, 3] = channel[4, 5, 6] = channel[0, 0, 0] = 0
    assert np.array_equal(result.labelmap, channel)
    assert any("3 voxels are not finite" in warning for warning in result.warnings)


def scan(shape=(12, 40, 40), top=1000):
    """Shades of a head on a dark, noisy background, whole numbers from 0 on."""
    _, j, i = np.indices(shape)
    inside = (j - 20) ** 2 + (i - 20) ** 2 < 200
    shades = np.abs(
        np.random.default_rng(0).normal(np.where(inside, 0.5 + 0.3 * np.sin(i / 3) * np.cos(j / 3), 0), 0.02)
    )
    return (top * shades).round().astype(np.float32)


@pytest.mark.parametrize("share", [0.02, 0.5])
@pytest.mark.parametrize("padding", [3.4028235e38, -3.4028235e38, 65535, -1024, -32768, -5])
@pytest.mark.parametrize("method", ["percentile", "zscore", "slice-min-max"])
@pytest.mark.parametrize("top", [250, 4000])
def test_padding_does_not_move_the_intensities(method, padding, share, top):
    settings = config(intensity={"method": method, **({"low": 1, "high": 99} if method == "percentile" else {})})
    clean = scan(top=top)
    padded, columns = clean.copy(), int(share * clean.shape[2] + 0.5)
    padded[..., :columns] = padding
    rest = fit_intensity(settings.preprocessing.intensity, clean[..., columns:])
    found = fit_intensity(settings.preprocessing.intensity, padded)
    assert found.paddings == (np.float32(padding),)
    assert (found.offset, found.unit) == pytest.approx((rest.offset, rest.unit), rel=1e-5)
    scaled = found(padded.copy())
    np.testing.assert_allclose(scaled[..., columns:], rest(clean[..., columns:].copy()), atol=1e-3)
    assert np.allclose(scaled[..., :columns], scaled[..., columns:].min((1, 2), keepdims=True), atol=0.1)
    np.testing.assert_allclose(found(torch.from_numpy(padded.copy())).numpy(), scaled, atol=1e-5)


@pytest.mark.parametrize(
    "array",
    [
        scan(),
        np.maximum(scan(), 300) - 300,  # most is 0 exactly
        np.minimum(scan(), 500),  # saturated
        np.where(scan() > 50, scan() + 2000, 0),  # a head that was cut out
        scan() * 3 - 1024,  # CT: air has the least value, and values beside it
        np.clip(scan() * 3 - 1100, -1024, 3071),
        (scan() - 300) / 200,  # normalized
        (scan() > 200) * 7.0,  # two values
    ],
)
def test_what_is_no_padding(array):
    assert fit_intensity(ZScore(method="zscore"), array.astype(np.float32)).paddings == ()
    assert fit_intensity(ZScore(method="zscore"), array.round().astype(np.int16)).paddings == ()


def test_measured_voxels_are_finite_and_no_padding():
    array = scan()
    array[..., :9], array[0, 0, 20] = -1024, np.nan
    known = measured(array)
    assert not known[..., :9].any() and not known[0, 0, 20] and known.sum() == array[..., 9:].size - 1
    assert measured(scan().astype(np.int16)).all()


def test_padding_becomes_background_and_is_reported():
    array, channel = levels()
    array = array + np.random.default_rng(0).normal(0, 1e-4, array.shape).astype(np.float32)
    array[:, :, :3], channel[:, :, :3] = -1024, 0
    settings = config(intensity={"method": "percentile", "low": 0, "high": 100})
    result = Segmenter(with_network(settings, BandNetwork()), "cpu").segment(Volume(array, RAS))
    assert np.array_equal(result.labelmap, channel)
    assert any("hold -1024" in warning for warning in result.warnings)


class NothingNetwork(torch.nn.Module):
    """Stand-in: background everywhere, but one pixel in the middle of channel 1 where `some`."""

    def __init__(self, some=False):
        super().__init__()
        self.some = some

    def forward(self, image):
        logits = torch.zeros(len(image), 5, *image.shape[2:])
        logits[:, 0] = 10
        if self.some:
            logits[:, 1, 10, 10] = 20
        return logits


def test_an_empty_result_is_said_with_likely_reasons():
    array, _ = levels()
    empty = Segmenter(with_network(config(), NothingNetwork()), "cpu")
    (said,) = empty.segment(Volume(array, RAS)).warnings
    assert said.startswith("The result is empty") and "field of view" in said and "padding" in said
    assert empty.segment(Volume(array, RAS), Region.parse("0:5,:,:")).warnings == []


@pytest.mark.parametrize(
    ("typical", "words"),
    [
        ({1: 400.0, 2: 100.0}, "next to nothing: "),
        ({1: 0.006, 2: 0.1, 3: 0.2}, "nothing was found of Class 2, Class 3"),
        ({}, ""),
    ],
)
def test_much_less_than_the_training_labels_held_is_said(typical, words):
    array, _ = levels()
    settings = config(typical_ml=typical)
    warnings = Segmenter(with_network(settings, NothingNetwork(some=True)), "cpu").segment(Volume(array, RAS)).warnings
    found = any((words or "nothing") in warning for warning in warnings)
    assert found == bool(words)


def test_hounsfield_units_under_an_mr_model_are_warned_of_and_the_reverse():
    head = scan()
    ct = np.where(head < 100, -1000 + head / 5, head / 10 - 20).astype(np.float32)

    def warned(modality, array, words, known=""):
        settings = config(modality=modality, intensity={"method": "window", "low": -160, "high": 240})
        segmenter = Segmenter(with_network(settings, NothingNetwork()), "cpu")
        found = segmenter.segment(Volume(array, RAS, "x", known)).warnings
        return any(words in warning for warning in found)

    assert warned("MR", ct, "look like Hounsfield")
    assert warned("MR", ct.astype(np.int16), "look like Hounsfield", "MR")
    assert not warned("MR", head, "look like Hounsfield")
    assert not warned("CT", ct, "Hounsfield units, but")
    assert warned("CT", head, "Hounsfield units, but")
    padded = head.copy()
    padded[..., :10] = -1024
    assert warned("CT", padded, "Hounsfield units, but")


@pytest.mark.parametrize("method", ["percentile", "zscore", "slice-min-max", "window"])
def test_no_finite_value(method):
    extra = {"low": 0, "high": 100} if method in ("percentile", "window") else {}
    segmenter = Segmenter(with_network(config(intensity={"method": method, **extra}), BandNetwork()), "cpu")
    with pytest.raises(InputError, match="no finite value"):
        segmenter.segment(Volume(np.full((4, 20, 20), np.nan), RAS))


@pytest.mark.parametrize("method", ["percentile", "zscore", "slice-min-max"])
def test_constant_volume(method):
    extra = {"low": 0, "high": 100} if method == "percentile" else {}
    segmenter = Segmenter(with_network(config(intensity={"method": method, **extra}), BandNetwork()), "cpu")
    with pytest.raises(InputError, match="every voxel is 7"):
        segmenter.segment(Volume(np.full((4, 20, 20), 7, np.int16), RAS))


def test_one_slice():
    array, channel = levels((1, 20, 24))
    result = Segmenter(with_network(config(), BandNetwork()), "cpu").segment(Volume(array, RAS))
    assert np.array_equal(result.labelmap, channel)


@pytest.mark.parametrize("thin", [0, 1, 2])
def test_one_voxel_thin_along_any_axis_takes_the_plane_that_is_there(thin):
    shape = [16, 20, 24]
    shape[thin] = 1
    array, channel = levels(tuple(shape))
    any_plane = Segmenter(with_network(config(orientations=("SPL", "AIL", "LIP")), BandNetwork()), "cpu")
    assert np.array_equal(any_plane.segment(Volume(array, RAS)).labelmap, channel)
    axial_only = Segmenter(with_network(config(), BandNetwork()), "cpu")
    if thin == 0:
        assert np.array_equal(axial_only.segment(Volume(array, RAS)).labelmap, channel)
    else:
        with pytest.raises(InputError, match="no slice for this model"):
            axial_only.segment(Volume(array, RAS))


def test_the_plane_with_the_finest_pixels_is_used():
    array, _ = levels((20, 20, 20))
    segmenter = Segmenter(with_network(config(orientations=("SPL", "AIL", "LIP")), BandNetwork()), "cpu")
    assert segmenter.segment(Volume(array, oriented((0, 1, 2), (1, 1, 1), (1, 1, 4)))).orientation == "SPL"
    assert segmenter.segment(Volume(array, oriented((0, 1, 2), (1, 1, 1), (1, 4, 1)))).orientation == "AIL"
    assert segmenter.segment(Volume(array, oriented((0, 1, 2), (1, 1, 1), (4, 1, 1)))).orientation == "LIP"
    assert segmenter.segment(Volume(array, RAS)).orientation == "SPL"


def test_absurd_spacing_is_refused():
    array, _ = levels()
    with pytest.raises(InputError, match="Check the spacing"):
        Segmenter(with_network(config(), BandNetwork()), "cpu").segment(Volume(array, np.diag([500.0, 500, 500, 1])))


def test_ct_model_on_a_volume_without_air_or_fat_warns():
    array = np.random.default_rng(0).integers(0, 255, (4, 20, 20)).astype(np.uint8)
    ct = config(intensity={"method": "window", "low": -125, "high": 275}, modality="CT")
    segmenter = Segmenter(with_network(ct, BandNetwork()), "cpu")
    assert any("Hounsfield" in w for w in segmenter.segment(Volume(array, RAS)).warnings)
    assert not any(
        "Hounsfield units, but" in w for w in segmenter.segment(Volume(array.astype(np.int16) - 1000, RAS)).warnings
    )


@pytest.mark.parametrize(("given", "fits"), [("CT", True), ("", True), ("MR", False)])
def test_known_modality_must_fit(given, fits):
    array = np.random.default_rng(0).integers(-1000, 255, (4, 20, 20)).astype(np.int16)
    ct = config(intensity={"method": "window", "low": -125, "high": 275}, modality="CT")
    segmenter = Segmenter(with_network(ct, BandNetwork()), "cpu")
    volume = Volume(array, RAS, modality=given)
    if fits:
        segmenter.segment(volume)
    else:
        with pytest.raises(InputError, match="made for CT, and this volume is MR"):
            segmenter.segment(volume)
        assert segmenter.segment(volume, options=SegmentOptions(any_modality=True)).labelmap.any()


def smooth_scan():
    """A CT-like volume with structure at several scales."""
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(3, 96, 80)), (0.5, 4, 4))
    return (noise / noise.std() * 120 + 60).astype(np.float32)


STRETCH = {"method": "stretch", "height": 64, "width": 48, "interpolation": "cubic", "align_corners": True}
CT = {"method": "window", "low": -125, "high": 275}


def test_paper_mode_is_the_published_pipeline():
    array = smooth_scan()
    model = config(STRETCH, orientations=("stored",), intensity=CT)
    result = Segmenter(with_network(model, BandNetwork()), "cpu", mode="paper").segment(Volume(array, RAS))
    # The steps as the paper's evaluation takes them, once more from the description.
    scaled = (np.clip(array, -125, 275) + 125) / 400
    for k, plane in enumerate(scaled):
        small = ndimage.zoom(plane, (64 / 96, 48 / 80), order=3)
        labels = BandNetwork()(torch.from_numpy(small)[None, None]).argmax(1)[0].numpy()
        assert np.array_equal(result.labelmap[k], ndimage.zoom(labels, (96 / 64, 80 / 48), order=0))


def test_paper_mode_takes_percentiles_over_every_voxel():
    array = np.random.default_rng(0).gamma(2.0, 100.0, (30, 420, 400)).astype(np.float32)  # above the sample's size
    model = config(STRETCH, orientations=("stored",), intensity={"method": "percentile", "low": 0, "high": 99})
    network = BandNetwork()
    inputs = []
    network.register_forward_pre_hook(lambda module, args: inputs.append(args[0][0].clone()))
    Segmenter(with_network(model, network), "cpu", mode="paper").segment(Volume(array, RAS), Region.parse(":,:,0:1"))
    top = np.percentile(array, 99)
    scaled = (np.minimum(array[0], top) - array.min()) / (top - array.min())
    assert np.allclose(inputs[0], ndimage.zoom(scaled, (64 / 420, 48 / 400), order=3), atol=2e-5)


def test_paper_mode_needs_stretched_slices():
    array, _ = levels()
    with pytest.raises(InputError, match="Paper mode"):
        Segmenter(with_network(config(), BandNetwork()), "cpu", mode="paper").segment(Volume(array, RAS))


@pytest.mark.parametrize("restore", ["logits", "nearest"])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_resizing_there_and_back_keeps_borders_in_place(restore, align_corners, interpolation):
    array = np.zeros((2, 96, 80), np.float32)
    array[:, 30:66, 22:58] = 1
    stretch = STRETCH | {"interpolation": interpolation, "align_corners": align_corners}
    model = config(stretch, intensity={"method": "window", "low": 0, "high": 1}, restore=restore, orientations=("SAR",))
    labelmap = Segmenter(with_network(model, BandNetwork()), "cpu").segment(Volume(array, RAS)).labelmap
    inside = (labelmap >= 2)[0]  # at least half
    truth = array[0] > 0
    assert 2 * np.count_nonzero(inside & truth) / (np.count_nonzero(inside) + np.count_nonzero(truth)) > 0.96
    found = np.array(ndimage.center_of_mass(inside))
    assert np.abs(found - ndimage.center_of_mass(truth)).max() < 0.5


def test_resampling_to_a_spacing_keeps_borders_in_place():
    array = np.zeros((2, 96, 80), np.float32)
    array[:, 30:66, 22:58] = 1
    for pixel in (0.7, 1.3, 2.0):
        model = config({"method": "spacing", "pixel": pixel}, orientations=("SAR",))
        network = BandNetwork()
        labelmap = Segmenter(with_network(model, network), "cpu").segment(Volume(array, RAS)).labelmap
        assert network.seen[0][2] == -(-round(96 / pixel) // 16) * 16
        found = np.array(ndimage.center_of_mass(labelmap[0] >= 2))
        assert np.abs(found - ndimage.center_of_mass(array[0])).max() < 0.3


def test_encoder_and_rgb_bundles_are_refused():
    with pytest.raises(BundleError, match="starting point for training"):
        Segmenter(with_network(config(kind="encoder"), BandNetwork()), "cpu")
    with pytest.raises(BundleError, match="RGB"):
        Segmenter(with_network(config(in_channels=3), BandNetwork()), "cpu")


def test_unknown_or_missing_device_says_what_there_is():
    with pytest.raises(DeviceError, match="auto, cuda, mps, cpu"):
        Segmenter(with_network(config(), BandNetwork()), "tpu")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match=r"CUDA|GPU"):
            Segmenter(with_network(config(), BandNetwork()), "cuda")
