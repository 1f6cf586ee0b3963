"""The shipped model learns from a few slices of the sample head, coarser, in which a structure was painted."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from rwkv_core import Bundle, Segmenter, Volume, load_bundle, read_volume
from rwkv_core.adaptation import Recipe, adapt, keep_slices, segment_again
from rwkv_core.adaptation.comparison import compare
from rwkv_core.adaptation.evidence import is_clear
from rwkv_core.cli.demo import SAMPLE
from rwkv_core.errors import BundleError, CancelledError, InputError
from rwkv_core.vocabulary import SegmentClass, SliceIndex

RECIPE = Recipe(decoder_steps=50, whole_steps=3, crop=64, views=0.1, corrected=4, others=2)
BALL = SegmentClass(value=99, name="Bright ball", color=(255, 0, 0))
NAMES = {"name": "mine", "title": "Mine"}


@pytest.fixture(scope="module")
def bundle():
    """The shipped model at a pixel size of 2 mm: good enough here, and fast."""
    shipped = load_bundle("default")
    resampling = shipped.config.preprocessing.resampling.model_copy(update={"pixel": 2.0})
    preprocessing = shipped.config.preprocessing.model_copy(update={"resampling": resampling})
    return Bundle(shipped.folder, shipped.config.model_copy(update={"preprocessing": preprocessing}))


@pytest.fixture(scope="module")
def scene(bundle):
    """(volume, prediction, truth): truth is the prediction with the ball, which the model takes for something else."""
    head = read_volume(SAMPLE)
    array = head.array[30:126:6, 20:200:2, 10:170:2].astype(np.float32)
    k, j, i = np.indices(array.shape)
    ball = (3 * (k - 8.5)) ** 2 + (j - 50) ** 2 + (i - 28) ** 2 < 13**2
    array[ball] = 60 + 0.2 * array[ball] + 8 * np.sin(1.5 * i[ball]) * np.sin(1.5 * j[ball])
    matrix = head.ijk_to_ras @ np.diag([2, 2, 6, 1])
    volume = Volume(array, matrix)
    prediction = segment(bundle, volume)
    truth = prediction.copy()
    truth[ball] = BALL.value
    return volume, prediction, truth


def segment(bundle, volume):
    return Segmenter(bundle, "cpu", engine="torch").segment(volume).labelmap


@pytest.fixture(scope="module")
def slices():
    return [SliceIndex("K", index) for index in (5, 8, 11)]


@pytest.fixture(scope="module")
def weights_before(bundle):
    return {name: value.clone() for name, value in bundle.network.state_dict().items()}


@pytest.fixture(scope="module")
def adapted(bundle, scene, slices, weights_before):
    volume, _, truth = scene
    steps = []
    result = adapt(
        bundle, volume, truth, slices, [BALL], **NAMES, device="cpu", seconds=600, recipe=RECIPE,
        progress=lambda *at: steps.append(at),
    )  # fmt: skip
    assert steps[0] == (0, 100)
    assert steps[-1] == (100, 100)
    assert steps == sorted(steps)
    return result


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_a_new_structure_is_found_in_slices_that_nobody_touched(adapted, scene, slices):
    volume, _, truth = scene
    labelmap = segment(adapted.bundle, volume)
    rest = np.delete(np.arange(len(truth)), [one.index for one in slices])
    assert dice(labelmap[rest] == BALL.value, truth[rest] == BALL.value) > 0.7


def test_what_the_model_knew_stays(adapted, scene, slices):
    volume, prediction, truth = scene
    labelmap = segment(adapted.bundle, volume)
    rest = np.delete(np.arange(len(truth)), [one.index for one in slices])
    for value in (1, 2):  # white matter and cortex, most of what is there
        truly, before, after = (one[rest] == value for one in (truth, prediction, labelmap))
        assert dice(before, truly) > 0.95  # the truth is the prediction, but for the ball
        assert dice(after, truly) > 0.85


def test_the_adapted_bundle_says_what_it_is(adapted, bundle):
    config = adapted.config
    assert (config.id, config.title) == ("mine", "Mine")
    assert config.classes == (*bundle.config.classes, replace(BALL, orientations=("SPL",)))
    assert (config.licence, config.citation) == (bundle.config.licence, bundle.config.citation)
    record = config.training["adaptations"][0]
    assert (record["from"], record["slices"], record["new_classes"]) == ("default", 3, ["Bright ball"])
    assert config.training["data"] == bundle.config.training["data"]


def test_saved_and_loaded_it_answers_the_same(adapted, scene, tmp_path):
    volume = scene[0]
    loaded = load_bundle(adapted.save(tmp_path / "mine").folder)
    assert loaded.config == adapted.config
    assert np.array_equal(segment(loaded, volume), segment(adapted.bundle, volume))


def test_reverting_is_exact(adapted, bundle, weights_before, scene):
    volume, prediction, _ = scene
    now = bundle.network.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in weights_before.items())
    assert np.array_equal(segment(bundle, volume), prediction)


def test_corrections_of_a_known_class_carry_over(bundle, scene, slices):
    """The model misses the ball; the user calls it ventricle, a class that it has."""
    volume, prediction, truth = scene
    users = np.where(truth == BALL.value, 3, truth).astype(np.uint8)
    result = adapt(bundle, volume, users, slices, **NAMES, device="cpu", seconds=600, recipe=RECIPE)
    assert result.config.classes == bundle.config.classes
    labelmap = segment(result.bundle, volume)
    rest = np.delete(np.arange(len(truth)), [one.index for one in slices])
    before, after = (dice(one[rest] == 3, users[rest] == 3) for one in (prediction, labelmap))
    assert after > before + 0.2
    merged = keep_slices(labelmap, users, slices)
    assert np.array_equal(merged[8], users[8])
    assert np.array_equal(merged[9], labelmap[9])
    changes = {change.value: change for change in compare(prediction, labelmap, bundle.config.classes, volume.spacing)}
    assert changes[3].after_ml > changes[3].before_ml
    assert changes[3].dice < 1


def test_a_new_class_is_judged_in_the_plane_of_the_corrections_and_the_others_in_all(bundle, scene):
    volume, _, truth = scene
    cubic = Volume(volume.array, np.diag([3.0, 3.0, 3.0, 1.0]))  # fine in every plane
    preprocessing = bundle.config.preprocessing.model_copy(update={"average": True})
    averaging = Bundle(bundle.folder, bundle.config.model_copy(update={"preprocessing": preprocessing}))
    quick = Recipe(decoder_steps=2, whole_steps=1, crop=32, views=0.1)
    coronal = [SliceIndex("J", 44), SliceIndex("J", 50)]
    result = adapt(averaging, cubic, truth, coronal, [BALL], **NAMES, device="cpu", seconds=600, recipe=quick)
    *old, new = result.config.classes
    assert tuple(old) == averaging.config.classes
    assert len(new.orientations) == 1 and new.orientations[0][0] in "AP"
    assert result.config.preprocessing.average
    assert result.config.preprocessing.orientations[0] == new.orientations[0]
    assert set(result.config.preprocessing.orientations) == set(preprocessing.orientations)
    known = adapt(averaging, cubic, truth, coronal, **NAMES, device="cpu", seconds=600, recipe=quick)
    assert known.config.preprocessing == preprocessing


def test_the_result_counts_the_shapes_between_the_slices_and_leaves_these_alone(adapted, scene, slices):
    volume, prediction, truth = scene
    users = keep_slices(prediction, truth, slices)
    users[8, 3, 3] = BALL.value  # nothing like it anywhere
    prepared = Segmenter(adapted.bundle, "cpu", engine="torch").prepare(volume)
    plain = prepared.segment(probabilities=True)
    again = segment_again(prepared, users, slices, adapted.changes, prediction)
    for one in slices:
        assert np.array_equal(one.of(again.labelmap), one.of(users))
    ball = len(again.classes)
    rest = np.delete(np.arange(len(truth)), [one.index for one in slices])
    truly = (truth == BALL.value)[rest]
    before, after = (one.labelmap[rest] == BALL.value for one in (plain, again))
    assert dice(after, truly) >= dice(before, truly)
    assert (again.probabilities[ball] <= np.maximum(plain.probabilities[ball], 1e-4))[0].all()  # far beyond the slices
    assert again.probabilities[ball][7, 50, 28] > plain.probabilities[ball][7, 50, 28]  # amidst the ball
    assert np.allclose(again.probabilities.astype(np.float32).sum(0), 1, atol=0.02)


def test_what_the_corrections_do_not_speak_for_stays(adapted, scene, slices):
    """The user only drew the ball: nobody said anything about cortex and white matter."""
    volume, prediction, truth = scene
    users = keep_slices(prediction, truth, slices)
    prepared = Segmenter(adapted.bundle, "cpu", engine="torch").prepare(volume)
    plain = prepared.segment().labelmap
    again = segment_again(prepared, users, slices, (), prediction, probabilities=False).labelmap
    free = (again != BALL.value) & (users != BALL.value) & (plain != BALL.value)
    changed = np.count_nonzero(plain[free] != prediction[free])
    few = 0.05 * changed  # borders that moved along with the ball's
    assert changed > 100
    assert np.count_nonzero(again[free] != prediction[free]) < few
    change = (1, 2)
    asked = (prediction == 1) & (plain == 2)
    asked[[one.index for one in slices]] = False
    spoken = segment_again(prepared, users, slices, {change}, prediction, probabilities=False).labelmap
    assert asked.any()
    assert np.mean(spoken[asked] == 2) > 0.9
    assert np.count_nonzero(spoken[free & ~asked] != again[free & ~asked]) < few


def test_what_may_not_become_one_label_may_become_another(adapted, scene, slices):
    """Cortex, says the model, where there was white matter; the corrections speak for fluid there, not for cortex."""
    volume, prediction, truth = scene
    users = keep_slices(prediction, truth, slices)
    prepared = Segmenter(adapted.bundle, "cpu", engine="torch").prepare(volume)
    plain = prepared.segment(probabilities=True)
    asked = (prediction == 1) & (plain.labelmap == 2)
    asked[[one.index for one in slices]] = False
    again = segment_again(prepared, users, slices, {(1, 5)}, prediction).labelmap
    white, fluid = plain.probabilities[1], plain.probabilities[5]
    assert np.count_nonzero(asked & (fluid > white + 0.01)) > 20
    assert np.mean(again[asked & (fluid > white + 0.01)] == 5) > 0.9
    assert np.mean(again[asked & (white > fluid + 0.01)] == 1) > 0.9


def test_evidence_is_what_other_slices_bear_out(bundle, scene, slices):
    """In all slices the ball is ventricle; or in one of them only."""
    volume, prediction, truth = scene
    ball = truth == BALL.value
    users = np.where(ball, 3, truth).astype(np.uint8)

    def changes(labelmap, before=prediction):
        result = adapt(bundle, volume, labelmap, slices, (), before, **NAMES, device="cpu", seconds=600, recipe=RECIPE)
        return result.changes

    borne_out = changes(users)
    assert {new for _, new in borne_out} - {0} == {3}  # small islands, which are removed, are background
    once = keep_slices(prediction, users, slices[:1])
    assert not {new for _, new in changes(once)} - {0}
    assert changes(users, users) == frozenset()  # nothing was corrected


@pytest.mark.parametrize(
    ("right", "wrong", "other", "clear"),
    [(100, 20, 0, True), (60, 0, 40, True), (100, 0, 110, False), (20, 0, 0, False), (300, 240, 0, False)],
)
def test_a_change_must_be_right_clearly_and_more_often_than_not(right, wrong, other, clear):
    assert is_clear(right, wrong, right + wrong + other) == clear


def test_one_slice_is_asked_about_its_other_half(bundle, scene, slices):
    volume, prediction, truth = scene
    users = np.where(truth == BALL.value, 3, truth).astype(np.uint8)
    result = adapt(
        bundle, volume, users, slices[1:2], (), prediction, **NAMES, device="cpu", seconds=600, recipe=RECIPE
    )
    assert {new for _, new in result.changes} - {0} == {3}


@pytest.mark.parametrize("when", [0, 3, 12])
def test_cancel_leaves_the_model_untouched(bundle, scene, slices, weights_before, when):
    volume, _, truth = scene
    asked = []
    with pytest.raises(CancelledError):
        adapt(
            bundle, volume, truth, slices, [BALL], **NAMES, device="cpu", recipe=RECIPE,
            cancel=lambda: len(asked) > when or asked.append(1),
        )  # fmt: skip
    now = bundle.network.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in weights_before.items())
    assert not bundle.network.training


def test_time_runs_out(bundle, scene, slices):
    volume, _, truth = scene
    endless = Recipe(decoder_steps=10**9, whole_steps=10**9, crop=64, views=0.05)
    result = adapt(bundle, volume, truth, slices, [BALL], **NAMES, device="cpu", seconds=0.1, recipe=endless)
    assert sum(result.config.training["adaptations"][0]["steps"].values()) < 1000


def test_slices_of_another_plane_teach_too(bundle, scene):
    volume, _, truth = scene
    result = adapt(
        bundle, volume, truth, [SliceIndex("J", 50), SliceIndex("K", 8)], [BALL], **NAMES, device="cpu", seconds=600,
        recipe=Recipe(decoder_steps=2, whole_steps=1, crop=32, views=0.1),
    )  # fmt: skip
    assert result.config.training["adaptations"][0]["slices"] == 2


def test_what_cannot_be_learnt_is_refused(bundle, scene, slices):
    volume, _, truth = scene

    def run(labelmap=truth, which=slices, new=(BALL,), model=bundle, **more):
        adapt(model, volume, labelmap, which, new, **NAMES, device="cpu", recipe=RECIPE, **more)

    with pytest.raises(InputError, match="no corrected slices"):
        run(which=[])
    with pytest.raises(InputError, match="differ in size"):
        run(labelmap=truth[1:])
    with pytest.raises(InputError, match="Bright ball: not drawn"):
        run(which=[SliceIndex("K", 0)])
    with pytest.raises(InputError, match="no slice 16 along K"):
        run(which=[SliceIndex("K", 16)])
    with pytest.raises(InputError, match="value 2 of a new class is taken by Cortex"):
        run(new=[SegmentClass(value=2, name="New", color=(0, 0, 0))])
    with pytest.raises(InputError, match="name 'Cortex'"):
        run(new=[SegmentClass(value=50, name="Cortex", color=(0, 0, 0))])
    axial = bundle.config.preprocessing.model_copy(update={"orientations": ("SPL",)})
    one_plane = Bundle(bundle.folder, bundle.config.model_copy(update={"preprocessing": axial}))
    with pytest.raises(InputError, match="does not read slices"):
        run(which=[SliceIndex("J", 50)], model=one_plane)
    encoder = Bundle(bundle.folder, bundle.config.model_copy(update={"kind": "encoder"}))
    with pytest.raises(BundleError, match="nothing to adapt"):
        run(model=encoder)
    event = threading.Event()
    event.set()
    with pytest.raises(CancelledError):
        run(cancel=event)
