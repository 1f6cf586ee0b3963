"""Interactive work with a worker as a real process: refine, uncertainty, spread."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rwkv_core import Segmenter, Volume
from rwkv_core.errors import CancelledError, InputError
from rwkv_core.inference.uncertainty import averaged_probabilities, entropy, slice_scores
from rwkv_core.postprocess import (
    fill_holes,
    keep_largest_part,
    keep_part_at,
    labels_from_probabilities,
    remove_small_parts,
)
from rwkv_core.vocabulary import PostProcessing, Region, SegmentClass, SliceIndex, Slices, SpreadStructure
from rwkv_core.worker.arrays import PrivateFolder
from rwkv_core.worker.framing import decode_reply, decode_request, encode
from rwkv_core.worker.interactive import Interactive
from rwkv_core.worker.jobs import Job, Reporter
from rwkv_core.worker.loaded_models import LoadedModels
from rwkv_core.worker.protocol import (
    PrepareSpreadRequest,
    PrepareSpreadResult,
    RefineRequest,
    RefineResult,
    SegmentRequest,
    SpreadRequest,
    SpreadResult,
    UncertaintyRequest,
    UncertaintyResult,
    VolumeFile,
)

from core.worker_helpers import OBLIQUE, asking, noise, volume_file, write_small

ROWS = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
CLASSES = (SegmentClass(value=9, name="New ü软", color=(1, 2, 3)),)
MESSAGES = [
    RefineRequest(
        id=1, result=7, processing=PostProcessing(
            smoothing=1.5, thresholds=((1, 0.3),), off=(2,), keep_at=((1, 2, 3),), keep_largest=(1,), smallest=20.0,
            fill_holes=(3,),
        ),
    ),
    UncertaintyRequest(id=2, result=7, planes=True, flips=True),
    SpreadRequest(
        id=3, volume=VolumeFile(file="array-0123456789abcdef.npy", ijk_to_ras=ROWS), result=7,
        labelmap="array-0123456789abcdef.npy", slices=(SliceIndex("J", 1),), values=(1, 2),
        before="array-0123456789abcdef.npy", keep=(SliceIndex("J", 5),), locked=(3,),
    ),
    PrepareSpreadRequest(
        id=4, volume=VolumeFile(file="array-0123456789abcdef.npy", ijk_to_ras=ROWS),
        labelmap="array-0123456789abcdef.npy", slices=(SliceIndex("J", 1),), locked=(3,),
    ),
]  # fmt: skip
REPLIES = [
    RefineResult(id=1, labelmap="a.npy", region=Region(), ijk_to_ras=ROWS, classes=CLASSES, seconds=0.5),
    UncertaintyResult(id=2, entropy="a.npy", region=Region(), ijk_to_ras=ROWS, scores={"K": (0.5, 0.25)}),
    SpreadResult(
        id=3, labelmap="a.npy", next_slice=SliceIndex("K", 2), seconds={"total": 0.5},
        structures=(SpreadStructure(value=1, method="mixture", score=0.5, interpolation=0.25, voxels=7),),
    ),
    PrepareSpreadResult(id=4, seconds=0.5),
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_requests_survive_the_way(message):
    assert decode_request(encode(message)) == message


@pytest.mark.parametrize("message", REPLIES, ids=lambda message: type(message).__name__)
def test_replies_survive_the_way(message):
    assert decode_reply(encode(message)) == message


@pytest.fixture(scope="module")
def lively(place):
    """Labels noise with all its classes; reads axial and coronal slices."""
    return write_small(place / "lively", lively=True, intensity={"method": "zscore"}, orientations=("SPL", "AIL"))


@pytest.fixture
def kept(worker, lively):
    """(request, result, probabilities) of a whole volume, kept."""
    return segment(worker, lively)


def segment(worker, model, array=None, **more):
    array = noise() if array is None else array
    given = {"outputs": ("labelmap", "probabilities"), "islands": "keep", **more}
    request = SegmentRequest(volume=volume_file(worker, array), keep=True, **asking(model, given))
    pending = worker.start(request)
    result = pending.result()
    assert result.kept
    return replace(request, id=pending.id), result, worker.folder.get(result.probabilities)


def refined(worker, result, **how):
    return worker.folder.take(worker.request(RefineRequest(result=result, processing=PostProcessing(**how))).labelmap)


def test_without_settings_refining_gives_the_result_again(worker, kept):
    request, result, _ = kept
    again = worker.request(RefineRequest(result=request.id))
    assert np.array_equal(worker.folder.get(again.labelmap), worker.folder.get(result.labelmap))
    assert (again.region, again.ijk_to_ras, again.classes) == (result.region, result.ijk_to_ras, result.classes)


def test_thresholds_and_classes_that_are_off(worker, kept):
    request, _, probabilities = kept
    values = [1, 2, 3, 4]
    found = refined(worker, request.id, thresholds=((2, 0.1),), off=(1,))
    assert np.array_equal(found, labels_from_probabilities(probabilities, values, {2: 0.1}, (1,)))
    assert not (found == 1).any()
    assert np.count_nonzero(found == 2) >= np.count_nonzero(refined(worker, request.id) == 2)


def test_islands_holes_and_smoothing(worker, kept):
    request, _, _ = kept
    plain = refined(worker, request.id)
    value = int(np.bincount(plain[plain > 0]).argmax())
    k, j, i = (int(index) for index in np.argwhere(plain == value)[-1])
    expected = plain.copy()
    keep_part_at(expected, (k, j, i))
    assert np.array_equal(refined(worker, request.id, keep_at=((i, j, k),)), expected)
    expected = plain.copy()
    assert keep_largest_part(expected, value) > 0
    assert np.array_equal(refined(worker, request.id, keep_largest=(value,)), expected)
    expected = plain.copy()
    spacing = np.linalg.norm(OBLIQUE[:3, :3], axis=0)
    for label in (1, 2, 3, 4):
        remove_small_parts(expected, label, 3.5 * np.prod(spacing), float(np.prod(spacing)))
    assert np.array_equal(refined(worker, request.id, smallest=3.5 * float(np.prod(spacing))), expected)
    assert not np.array_equal(refined(worker, request.id, smoothing=6.0), plain)
    expected = plain.copy()
    assert fill_holes(expected, value) == np.count_nonzero(expected != plain)
    assert np.array_equal(refined(worker, request.id, fill_holes=(value,)), expected)


def test_a_box_and_a_slice_are_kept_beside_the_volume(worker, lively, kept):
    whole = kept[0].id
    box = Region(i=(4, 20), k=(1, 5))
    request, result, _ = segment(worker, lively, region=box)
    answer = worker.request(RefineRequest(result=request.id))
    assert answer.region == result.region
    labelmap = worker.folder.get(answer.labelmap)
    assert np.array_equal(labelmap, worker.folder.get(result.labelmap))
    k, j, i = (int(index) for index in np.argwhere(labelmap)[0])
    click = refined(worker, request.id, keep_at=((i + 4, j, k + 1),))
    assert click[k, j, i] == labelmap[k, j, i]
    with pytest.raises(InputError, match="no longer kept"):
        worker.request(RefineRequest(result=whole))
    one_slice, preview, _ = segment(worker, lively, slices=Slices(axis="K", indices=(2,)))
    assert refined(worker, one_slice.id).shape == (1, 20, 24)
    assert np.array_equal(refined(worker, one_slice.id), worker.folder.get(preview.labelmap))
    assert refined(worker, request.id).shape == labelmap.shape
    with pytest.raises(InputError, match="follow each other"):
        segment(worker, lively, slices=Slices(axis="K", indices=(1, 4)))


def test_smoothing_and_islands_of_the_request_are_repeated(worker, lively):
    request, result, _ = segment(worker, lively, islands="remove", smoothing=0.8)
    assert np.array_equal(refined(worker, request.id), worker.folder.get(result.labelmap))


def test_voxels_that_are_no_numbers_stay_background(worker, lively):
    array = noise()
    array[2, 5:9, 5:9] = np.nan
    request, result, _ = segment(worker, lively, array)
    labelmap = worker.folder.get(result.labelmap)
    assert np.array_equal(refined(worker, request.id), labelmap)
    assert not labelmap[2, 5:9, 5:9].any()
    assert not refined(worker, request.id, thresholds=((1, 0.01),))[2, 5:9, 5:9].any()


def test_what_cannot_be_refined_is_told(worker, kept):
    result = kept[0].id
    for how, said in (
        ({"thresholds": ((1, 0.0),)}, "threshold of class 1"),
        ({"off": (9,)}, "no class 9"),
        ({"smallest": -1.0}, "negative"),
        ({"keep_at": ((500, 0, 0),)}, "outside"),
    ):
        with pytest.raises(InputError, match=said):
            worker.request(RefineRequest(result=result, processing=PostProcessing(**how)))


def test_uncertainty_of_what_is_kept(worker, kept):
    request, result, probabilities = kept
    answer = worker.request(UncertaintyRequest(result=request.id))
    found = worker.folder.take(answer.entropy)
    assert np.array_equal(found, entropy(probabilities))
    assert found.dtype == np.float32
    assert answer.region == result.region
    for axis, name in enumerate("KJI"):
        assert answer.scores[name] == pytest.approx(slice_scores(found, axis))


def test_uncertainty_over_planes_and_flips(worker, lively):
    box = Region(j=(2, 18))
    request, _, _ = segment(worker, lively, region=box)
    steps = []
    answer = worker.request(UncertaintyRequest(result=request.id, planes=True, flips=True), progress=steps.append)
    assert steps[-1].stage == "segment"
    assert steps[-1].done == steps[-1].total
    segmenter = Segmenter(Path(lively), "cpu")
    volume = Volume(noise(), OBLIQUE)
    expected = averaged_probabilities(segmenter, volume, planes=True, flips=True, region=Region(j=(2, 18)))
    found = worker.folder.take(answer.entropy)
    assert np.allclose(found, entropy(expected[:, :, 2:18]), atol=2e-3)


def test_uncertainty_over_planes_when_the_file_of_the_request_is_gone(worker, lively):
    """The module deletes it as soon as there is a result."""
    request, _, _ = segment(worker, lively)
    worker.folder.discard(request.volume.file)
    with pytest.raises(InputError, match="cannot be read"):
        worker.request(UncertaintyRequest(result=request.id, planes=True))
    answer = worker.request(UncertaintyRequest(result=request.id, planes=True, volume=volume_file(worker, noise())))
    assert worker.folder.take(answer.entropy).shape == noise().shape


@pytest.fixture
def drawn(worker):
    """A scan with a bright block, and its label in two slices: (volume, truth, labelmap)."""
    array = noise().astype(np.float32)
    truth = np.zeros(array.shape, np.uint8)
    truth[:, 4:14, 5:15] = 9
    array[truth > 0] += 20 * float(array.std())
    labelmap = np.zeros_like(truth)
    labelmap[[1, 4]] = truth[[1, 4]]
    return volume_file(worker, array), truth, labelmap


def test_slices_are_spread(worker, drawn):
    volume, truth, labelmap = drawn
    file = worker.folder.put(labelmap)
    slices = (SliceIndex("K", 1), SliceIndex("K", 4))
    steps = []
    request = SpreadRequest(volume=volume, labelmap=file, slices=slices)
    answer = worker.start(request).result(progress=steps.append)
    found = worker.folder.take(answer.labelmap)
    assert np.mean(found[2:4] == truth[2:4]) > 0.98 and np.array_equal(found[[1, 4]], truth[[1, 4]])
    assert [structure.value for structure in answer.structures] == [9] and answer.next_slice not in slices
    assert steps[-1].stage == "learn" and steps[-1].done == steps[-1].total == 100
    again = worker.request(replace(request, slices=(*slices, SliceIndex("K", 2)), values=(9,)))  # with what is kept
    assert worker.folder.take(again.labelmap).shape == truth.shape


def test_spreading_uses_what_a_model_said(worker, kept):
    request, result, _ = kept
    before = np.array(worker.folder.get(result.labelmap))
    users = before.copy()
    users[2, 4:12, 4:12] = 9
    answer = worker.request(
        SpreadRequest(
            volume=request.volume, labelmap=worker.folder.put(users), slices=(SliceIndex("K", 2),),
            before=worker.folder.put(before), result=request.id,
        )
    )  # fmt: skip
    assert [structure.value for structure in answer.structures] == [9]
    found = worker.folder.take(answer.labelmap)
    assert np.array_equal(found[found != 9], before[found != 9])


def test_spreading_tells_what_is_wrong(worker, drawn):
    volume, _, labelmap = drawn
    good = SpreadRequest(volume=volume, labelmap=worker.folder.put(labelmap), slices=(SliceIndex("K", 1),))
    for change, said in (
        ({"slices": ()}, "no slices to go by"),
        ({"slices": (SliceIndex("K", 99),)}, "no slice 99 along K"),
        ({"values": (3,)}, "Label 3 is in none"),
        ({"labelmap": worker.folder.put(labelmap[1:])}, "differ in size"),
        ({"labelmap": worker.folder.put(labelmap.astype(np.float32))}, "whole numbers"),
        ({"volume": replace(volume, file="array-0000000000000000.npy")}, "cannot be read"),
    ):
        with pytest.raises(InputError, match=said):
            worker.request(replace(good, **change))


def test_what_was_prepared_is_not_computed_again(tmp_path, monkeypatch):
    folder = PrivateFolder.create(tmp_path)
    interactive = Interactive(folder, LoadedModels())
    labelmap = np.zeros((6, 20, 20), np.uint8)
    labelmap[[1, 4], 4:14, 5:15] = 9
    array = np.random.default_rng(0).normal(size=labelmap.shape).astype(np.float32)
    scan = VolumeFile(file=folder.put(array), ijk_to_ras=ROWS)
    given = {"volume": scan, "labelmap": folder.put(labelmap), "slices": (SliceIndex("K", 1), SliceIndex("K", 4))}
    prepare = PrepareSpreadRequest(id=1, **given)
    stopped = Job(prepare)
    stopped.cancelled.set()
    with pytest.raises(CancelledError):
        interactive.prepare_spread(prepare, stopped, Reporter(1, lambda message: None))
    interactive.prepare_spread(prepare, Job(prepare), Reporter(1, lambda message: None))

    def compute(*arguments, **options):
        raise AssertionError("computed once more")

    monkeypatch.setattr("rwkv_core.spreading.spreading.volume_features", compute)
    request = SpreadRequest(id=2, **given)
    answer = interactive.spread(request, Job(request), Reporter(2, lambda message: None))
    assert folder.take(answer.labelmap)[2:4, 6:12, 7:13].any()
    folder.close()


def test_spreading_is_cancelled(worker, drawn):
    volume, truth, _ = drawn
    slices = tuple(SliceIndex("K", index) for index in range(5))
    pending = worker.start(SpreadRequest(volume=volume, labelmap=worker.folder.put(truth), slices=slices))
    with pytest.raises(CancelledError):
        pending.result(progress=lambda step: pending.cancel())
