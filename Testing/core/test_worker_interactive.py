"""Interactive work with a worker as a real process: refine, uncertainty, adapt, propagate."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rwkv_core import Segmenter, Volume, load_bundle
from rwkv_core.errors import BundleError, CancelledError, InputError
from rwkv_core.inference.uncertainty import averaged_probabilities, entropy, slice_scores
from rwkv_core.postprocess import (
    fill_holes,
    keep_largest_part,
    keep_part_at,
    labels_from_probabilities,
    remove_small_parts,
)
from rwkv_core.vocabulary import ClassChange, PostProcessing, Region, SegmentClass, SegmentOptions, SliceIndex, Slices
from rwkv_core.worker.client import WorkerClient
from rwkv_core.worker.framing import decode_reply, decode_request, encode
from rwkv_core.worker.protocol import (
    AdaptRequest,
    AdaptResult,
    ImportRequest,
    PropagateRequest,
    PropagateResult,
    RefineRequest,
    RefineResult,
    SegmentRequest,
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
    AdaptRequest(
        id=3, volume=VolumeFile(file="array-0123456789abcdef.npy", ijk_to_ras=ROWS),
        labelmap="array-0123456789abcdef.npy", folder="/modèles/ü软", name="mine", title="Mine ü软",
        slices=(SliceIndex("K", 3),), new_classes=CLASSES, seconds=20.0,
    ),
    PropagateRequest(
        id=4, result=7, labelmap="array-0123456789abcdef.npy", slice=SliceIndex("J", 1), values=(1, 2),
        keep=(SliceIndex("J", 5),), least=0.5, farthest=4,
    ),
]  # fmt: skip
REPLIES = [
    RefineResult(id=1, labelmap="a.npy", region=Region(), ijk_to_ras=ROWS, classes=CLASSES, seconds=0.5),
    UncertaintyResult(id=2, entropy="a.npy", region=Region(), ijk_to_ras=ROWS, scores={"K": (0.5, 0.25)}),
    AdaptResult(
        id=3, folder="/modèles/ü软", labelmap="a.npy", classes=CLASSES, slices=(SliceIndex("K", 3),),
        changes=(ClassChange(value=9, name="New ü软", before_ml=0.0, after_ml=1.5, dice=0.0),), learning=2.5,
        timings={"total": 1.5}, device="cpu", engine="torch", warnings=(),
    ),
    PropagateResult(id=4, labelmap="a.npy", slices=(SliceIndex("K", 2),), agreement=(0.75,)),
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: type(one).__name__)
def test_requests_survive_the_way(message):
    assert decode_request(encode(message)) == message


@pytest.mark.parametrize("message", REPLIES, ids=lambda one: type(one).__name__)
def test_replies_survive_the_way(message):
    assert decode_reply(encode(message)) == message


@pytest.fixture(scope="module")
def worker(place):
    with WorkerClient(place / "interactive.log", temporary=place) as client:
        yield client


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
    k, j, i = (int(one) for one in np.argwhere(plain == value)[-1])
    expected = plain.copy()
    keep_part_at(expected, (k, j, i))
    assert np.array_equal(refined(worker, request.id, keep_at=((i, j, k),)), expected)
    expected = plain.copy()
    assert keep_largest_part(expected, value) > 0
    assert np.array_equal(refined(worker, request.id, keep_largest=(value,)), expected)
    expected = plain.copy()
    spacing = np.linalg.norm(OBLIQUE[:3, :3], axis=0)
    for one in (1, 2, 3, 4):
        remove_small_parts(expected, one, 3.5 * np.prod(spacing), float(np.prod(spacing)))
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
    k, j, i = (int(one) for one in np.argwhere(labelmap)[0])
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
def corrected(worker, kept):
    """What a user has after painting a new segment into two slices: (labelmap before, after, the request's fields)."""
    before = np.array(worker.folder.get(kept[1].labelmap))
    users = before.copy()
    users[[1, 4], 4:16, 5:15] = 9
    new = SegmentClass(value=9, name="New", color=(10, 20, 30))
    fields = {
        "volume": kept[0].volume,
        "options": kept[0].options,
        "labelmap": worker.folder.put(users),
        "name": "mine",
        "title": "Mine",
        "new_classes": (new,),
        "seconds": 0.5,
    }
    return before, users, fields


def test_adapt_learns_segments_again_and_keeps_the_users_slices(worker, corrected, tmp_path, home):
    before, users, fields = corrected
    folder = tmp_path / "adapted ü软"
    steps = []
    request = AdaptRequest(
        **fields, folder=str(folder), prediction=worker.folder.put(before), slices=(SliceIndex("K", 0),)
    )
    pending = worker.start(request)
    result = pending.result(progress=steps.append)
    learning = [one for one in steps if one.stage == "learn"]
    assert (learning[0].done, learning[-1].done, learning[-1].total) == (0, 100, 100)
    assert steps[-1].stage == "write"
    assert result.slices == tuple(SliceIndex("K", index) for index in (0, 1, 4))
    labelmap = worker.folder.take(result.labelmap)
    assert np.array_equal(labelmap[[0, 1, 4]], users[[0, 1, 4]])
    bundle = load_bundle(folder)
    assert (bundle.config.id, bundle.config.title) == ("mine", "Mine")
    assert [one.value for one in bundle.config.classes] == [1, 2, 3, 4, 9]
    rest = labelmap[[2, 3, 5]]
    assert np.array_equal(rest[rest != 9], before[[2, 3, 5]][rest != 9])  # nothing else was corrected
    change = {one.value: one for one in result.changes}[9]
    assert change.before_ml == 0
    assert change.after_ml > 0
    assert np.array_equal(refined(worker, pending.id), labelmap)  # what was corrected, and what stayed, is kept


def test_adapt_in_a_box_segments_and_keeps_the_box(worker, corrected, tmp_path):
    _, users, fields = corrected
    box = Region(i=(4, 18), j=(3, 17), k=(0, 5))
    request = AdaptRequest(**fields, folder=str(tmp_path / "new"), slices=(SliceIndex("K", 1),), region=box)
    pending = worker.start(request)
    result = pending.result()
    assert result.kept
    labelmap = worker.folder.take(result.labelmap)
    outside = np.ones(labelmap.shape, bool)
    outside[0:5, 3:17, 4:18] = False
    assert np.array_equal(labelmap[outside], users[outside])
    again = worker.request(RefineRequest(result=pending.id))
    assert (*again.region.i, again.region.k[1]) == (4, 18, 5)
    found = worker.folder.take(again.labelmap)
    assert np.array_equal(found, labelmap[0:5, 3:17, 4:18])


def test_adapt_that_is_cancelled_leaves_nothing(worker, corrected, tmp_path):
    folder = tmp_path / "adapted"
    _, _, fields = corrected
    request = AdaptRequest(
        **{**fields, "seconds": 600.0}, folder=str(folder), slices=tuple(SliceIndex("K", k) for k in (1, 4))
    )
    for stage, least in (("learn", 1), ("segment", 0)):
        fast = replace(request, seconds=0.1) if stage == "segment" else request
        pending = worker.start(fast)

        def stop(step, stage=stage, least=least, pending=pending):
            if step.stage == stage and step.done >= least:
                pending.cancel()

        with pytest.raises(CancelledError):
            pending.result(progress=stop)
        assert list(tmp_path.iterdir()) == []
    assert np.array_equal(worker.folder.get(fields["labelmap"])[1], corrected[1][1])


def test_adapt_tells_what_is_wrong_before_it_learns(worker, corrected, tmp_path):
    _, users, fields = corrected
    good = AdaptRequest(**fields, folder=str(tmp_path / "new"), slices=(SliceIndex("K", 1),))
    taken = SegmentClass(value=1, name="Another", color=(0, 0, 0))
    for change, said in (
        ({"folder": str(tmp_path)}, "cannot be written"),
        ({"folder": "relative"}, "cannot be written"),
        ({"slices": ()}, "no corrected slices"),
        ({"slices": (SliceIndex("K", 99),)}, "no slice 99 along K"),
        ({"new_classes": (taken,)}, "taken by Class 1"),
        ({"labelmap": worker.folder.put(users[1:])}, "differ in size"),
        ({"labelmap": worker.folder.put(users.astype(np.float32))}, "whole numbers"),
        ({"volume": replace(fields["volume"], file="array-0000000000000000.npy")}, "cannot be read"),
    ):
        with pytest.raises(InputError, match=said):
            worker.request(replace(good, **change))
    with pytest.raises(BundleError):
        worker.request(replace(good, options=SegmentOptions(model="nowhere")))
    assert list(tmp_path.iterdir()) == []


def test_an_adaptation_is_saved_as_a_model_and_dropped(worker, corrected, tmp_path, place, home, new_client):
    """In a worker that knows this test's store."""
    client = new_client()
    _, users, fields = corrected
    volume = volume_file(client, noise())
    folder = tmp_path / "adapted"
    request = AdaptRequest(
        **{**fields, "volume": volume, "labelmap": client.folder.put(users)},
        folder=str(folder),
        slices=(SliceIndex("K", 1),),
    )
    client.request(request)
    saved = client.request(ImportRequest(path=str(folder), bundle="my-structures"))
    assert load_bundle("my-structures").config.title == "Mine"
    assert Path(saved.folder) != folder
    for model in ("my-structures", str(folder)):
        result = client.request(SegmentRequest(volume=volume, options=SegmentOptions(model=model, device="cpu")))
        assert [one.value for one in result.classes] == [1, 2, 3, 4, 9]


def test_propagation_from_a_corrected_slice(worker, kept):
    request, result, _ = kept
    users = np.zeros_like(worker.folder.get(result.labelmap))
    predicted = worker.folder.get(result.labelmap)
    users[3] = predicted[3]
    value = int(np.bincount(predicted[3][predicted[3] > 0]).argmax())
    answer = worker.request(
        PropagateRequest(
            result=request.id, labelmap=worker.folder.put(users), slice=SliceIndex("K", 3), values=(value,),
            keep=(SliceIndex("K", 5),), least=0.01,
        )
    )  # fmt: skip
    found = worker.folder.take(answer.labelmap)
    assert [one.index for one in answer.slices] == [2, 1, 0, 4]
    assert len(answer.agreement) == 4
    assert np.array_equal(found[:3] == value, predicted[:3] == value)
    assert np.array_equal(found[3], users[3])
    assert not found[5].any()
    with pytest.raises(InputError, match="none of the chosen"):
        worker.request(
            PropagateRequest(
                result=request.id,
                labelmap=worker.folder.put(users),
                slice=SliceIndex("K", 0),
                values=(value,),
            )
        )
