"""Pointing at structures: clicks, boxes, scribbles, corrections, propagation; what users can get wrong."""

import json

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from rwkv_core import Prompter, Volume, write_volume
from rwkv_core.bundle.bundle import write_bundle
from rwkv_core.bundle.config import BundleConfig
from rwkv_core.cli import main
from rwkv_core.errors import BundleError, CancelledError, InputError
from rwkv_core.inference.prompt_maps import CHANNELS, PicturePrompts, minimax, network_input
from rwkv_core.models.rwkv_unet import RWKVUNet
from rwkv_core.training.prompt import maps as training
from rwkv_core.volume import read_labelmap


class Similarity:
    """A stand-in for a trained network: what floods from the positive marks and not from the negative ones."""

    def __init__(self):
        self.calls = 0

    def __call__(self, maps):
        self.calls += 1
        positive, negative = maps[:, CHANNELS.index("flood of positive")], maps[:, CHANNELS.index("flood of negative")]
        return (20 * (positive - negative - 0.15))[:, None]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory):
    torch.manual_seed(0)
    network = RWKVUNet("T", 1, len(CHANNELS))
    config = BundleConfig(
        id="prompt", title="Anything", kind="prompt", architecture="rwkv-unet", variant="T", in_channels=len(CHANNELS),
        modality="any", licence="Apache-2.0",
    )  # fmt: skip
    return write_bundle(tmp_path_factory.mktemp("bundles") / "prompt", config, network, half=True)


@pytest.fixture
def prompter(bundle) -> Prompter:
    prompter = Prompter(bundle, device="cpu", engine="torch")
    prompter.network = Similarity()
    prompter.engine = prompter.network
    prompter.set_volume(two_balls())
    return prompter


def two_balls(shape: tuple[int, int, int] = (24, 60, 50), spacing: float = 2.0) -> Volume:
    """A bright ball around (K 12, J 20, I 20) and a second one, as bright, apart from it, on a dark ground."""
    k, j, i = np.indices(shape)
    array = np.full(shape, 100, np.int16)
    array[(k - 12) ** 2 + (j - 20) ** 2 + (i - 20) ** 2 < 64] = 200
    array[(k - 12) ** 2 + (j - 45) ** 2 + (i - 30) ** 2 < 36] = 200
    matrix = np.diag([-spacing, -spacing, spacing, 1.0])
    matrix[:3, 3] = (50, 60, -24)
    return Volume(array, matrix)


def ball_in_space() -> NDArray[np.bool_]:
    """The first ball's mask."""
    k, j, i = np.indices(two_balls().array.shape)
    mask: NDArray[np.bool_] = (k - 12) ** 2 + (j - 20) ** 2 + (i - 20) ** 2 < 64
    return mask


def ball(prompter: Prompter, plane: str, index: int) -> NDArray[np.bool_]:
    """The first ball's mask in a slice."""
    return prompter.stack(plane).to_stack(ball_in_space())[index]


def dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


@pytest.mark.parametrize(("plane", "index"), [("axial", 12), ("coronal", 20), ("sagittal", 20), ("stored", 12)])
def test_a_click_finds_the_structure_under_it_in_every_plane(prompter: Prompter, plane: str, index: int):
    ras = two_balls().ijk_to_ras @ [20, 20, 12, 1]
    located, points = prompter.locate(plane, [ras[:3]])

    probabilities = prompter.predict(plane, located, points)

    assert probabilities.shape == prompter.stack(plane).shape[1:]
    assert probabilities.dtype == np.float32
    assert probabilities.min() >= 0 and probabilities.max() <= 1
    assert dice(probabilities > 0.5, ball(prompter, plane, located)) > 0.9


def test_a_second_click_adds_and_a_negative_one_takes_away(prompter: Prompter):
    once = prompter.predict("stored", 12, [(20, 20)]) > 0.5
    both = prompter.predict("stored", 12, [(20, 20), (45, 30)]) > 0.5
    apart = prompter.predict("stored", 12, [(20, 20), (45, 30)], labels=[1, 0]) > 0.5

    assert once[20, 20] and not once[45, 30]
    assert both[20, 20] and both[45, 30]
    assert not apart[45, 30]


def test_a_correction_only_changes_what_it_asks_for(prompter: Prompter):
    """Whatever the network thinks of the rest: right voxels are not lost by a click elsewhere."""
    random = np.random.default_rng(5)
    prompter.engine = lambda maps: random.normal(0, 3, (1, 1, *maps.shape[2:])).astype(np.float32)

    once = prompter.predict("stored", 12, [(20, 20)]) > 0.5
    more = prompter.predict("stored", 12, [(20, 20), (45, 30)]) > 0.5
    less = prompter.predict("stored", 12, [(20, 20), (45, 30), (30, 30)], labels=[1, 1, 0]) > 0.5

    assert (once & ~more).sum() == 0 and (more & ~once).any()
    assert (less & ~more).sum() == 0 and (more & ~less).any()


def test_a_box_means_what_differs_from_its_surroundings(prompter: Prompter):
    """A dark crescent around something that goes on outside of the box: its middle does not belong."""
    j, i = np.indices((80, 80))
    radius = np.hypot(j - 40, i - 40)
    crescent = (radius > 16) & (radius < 24) & (i < 40)
    prompter.set_volume(Volume(np.where(crescent, 20, 100)[None].astype(np.int16), np.eye(4)))
    prompter.engine = lambda maps: 20 * (maps[:, CHANNELS.index("answer")][:, None] - 0.5)  # leaves what it is given

    found = prompter.predict("stored", 0, box=(16, 16, 64, 39)) > 0.5

    assert dice(found, crescent) > 0.85


def test_a_further_click_costs_no_more_than_the_first(prompter: Prompter):
    prompter.predict("stored", 12, [(20, 20)])
    first = prompter.network.calls
    prompter.predict("stored", 12, [(20, 20), (45, 30)])

    assert prompter.network.calls - first <= 2

    calls = prompter.network.calls
    prompter.predict("stored", 12, [(20, 20), (45, 30)])

    assert prompter.network.calls == calls


def test_scribbles_are_clicks_of_many_pixels(prompter: Prompter):
    scribble = np.zeros((60, 50), np.int8)
    scribble[18:23, 20] = 1
    scribble[45, 28:33] = -1

    found = prompter.predict("stored", 12, scribble=scribble) > 0.5

    assert dice(found, ball(prompter, "stored", 12)) > 0.85


def test_propagation_ends_where_the_structure_does(prompter: Prompter):
    def copy(maps):  # bright pixels that the neighbour's mask reaches
        bright = maps[:, CHANNELS.index("image")] > 0.4
        near = maximum_filter(maps[:, CHANNELS.index("neighbour")], (1, 9, 9)) > 0
        return 10.0 * (bright & near).astype(np.float32)[:, None] - 5

    prompter.engine = copy
    told = []
    found = prompter.propagate(
        ball(prompter, "stored", 12), 12, "stored", stop=0.3, progress=lambda *steps: told.append(steps)
    )

    volume = two_balls()
    k, j, i = np.indices(volume.array.shape)
    truth = (k - 12) ** 2 + (j - 20) ** 2 + (i - 20) ** 2 < 64
    assert found.labelmap.dtype == np.uint8
    assert found.labelmap.shape == volume.array.shape
    assert dice(found.labelmap > 0, truth) > 0.8
    assert 4 <= found.first < 12 < found.last <= 20
    assert all(found.reasons)
    assert [done for done, _ in told] == list(range(1, len(found.agreement) + 1))
    assert not found.labelmap[: found.first].any() and not found.labelmap[found.last + 1 :].any()


def test_an_unsure_network_is_helped_by_contrast_and_shape(prompter: Prompter):
    """The second ball is as bright, but too far away from the mask before."""
    prompter.engine = lambda maps: np.zeros((1, 1, *maps.shape[2:]), np.float32)

    found = prompter.propagate(ball(prompter, "stored", 12), 12, "stored", range=(10, 14))

    truth = two_balls().array == 200
    truth[:, 33:] = False
    assert dice(found.labelmap[10:15] > 0, truth[10:15]) > 0.9
    with pytest.raises(InputError, match="0 to 1"):
        prompter.propagate(ball(prompter, "stored", 12), 12, "stored", stop=2.0)


def test_propagation_follows_what_fades_and_ends_where_only_the_surroundings_are_left(prompter: Prompter):
    prompter.engine = lambda maps: 40 * maps[:, [CHANNELS.index("neighbour")]] - 20  # would copy the mask for ever
    k, j, i = np.indices((24, 60, 50))
    column = (j - 20) ** 2 + (i - 20) ** 2 < 64
    array = np.random.default_rng(0).normal(100, 3, k.shape) + np.where(column & (k < 18), 100 - 8 * np.abs(k - 12), 0)
    prompter.set_volume(Volume(array.astype(np.float32), two_balls().ijk_to_ras))

    found = prompter.propagate(column[12], 12, "stored", range=(8, 23))

    assert (found.first, found.last) == (8, 17)
    assert found.reasons[0] == "That is the last slice asked for." and "intensity" in found.reasons[1]


def test_an_unsure_answer_keeps_what_differs_from_its_surroundings(prompter: Prompter):
    def wide(maps):  # a disc of 12 pixels where the ball has 8: sure of nothing
        rows, columns = np.indices(maps.shape[2:])
        row, column = np.argwhere(maps[0, CHANNELS.index("positive")] > 0).mean(0)
        disc = (rows - row) ** 2 + (columns - column) ** 2 < (12 * 128 / 60) ** 2
        return np.where(disc, 0.3, -6).astype(np.float32)[None, None]

    prompter.engine = wide

    found = prompter.predict("stored", 12, [(20, 20)]) > 0.5

    assert dice(found, ball(prompter, "stored", 12)) > 0.85


def test_propagation_stays_within_the_range(prompter: Prompter):
    found = prompter.propagate(ball(prompter, "stored", 12), 12, "stored", range=(12, 13), stop=0.0)

    assert set(found.agreement) <= {13}


def test_cancelling_leaves_nothing(prompter: Prompter):
    with pytest.raises(CancelledError):
        prompter.predict("stored", 12, [(20, 20)], cancel=lambda: True)
    with pytest.raises(CancelledError):
        prompter.propagate(ball(prompter, "stored", 12), 12, "stored", cancel=lambda: True)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ({"points": [(200, 3)]}, "outside the slice"),
        ({"points": [(float("nan"), 3)]}, "outside the slice"),
        ({"points": [(20, 20)], "box": (30, 30, 40, 40)}, "outside the box"),
        ({"box": (100, 100, 120, 120)}, "box lies outside"),
        ({"box": (10, 10, 5, 5)}, "first row, first column"),
        ({"points": [(20, 20), (20.2, 20)], "labels": [1, 0]}, "both that it belongs"),
        ({"points": [(20, 20)], "labels": [0]}, "No prompt says what belongs"),
        ({}, "No prompt says what belongs"),
        ({"points": [(20, 20)], "labels": [1, 1]}, "1 points but 2 labels"),
        ({"points": [(20, 20, 12)]}, "two numbers"),
        ({"points": [3]}, "two numbers"),
        ({"scribble": np.ones((3, 3))}, "60 x 50"),
    ],
)
def test_prompts_that_make_no_sense_are_told_in_a_sentence(prompter: Prompter, prompts: dict, words: str):
    with pytest.raises(InputError, match=words):
        prompter.predict("stored", 12, **prompts)


def test_places_outside_the_volume_are_told(prompter: Prompter):
    with pytest.raises(InputError, match="outside the volume"):
        prompter.locate("axial", [(500, 0, 0)])
    with pytest.raises(InputError, match="different slices"):
        prompter.locate("axial", [(0, 0, 0), (0, 0, 10)])
    with pytest.raises(InputError, match="There is no slice 99"):
        prompter.predict("stored", 99, [(3, 3)])
    with pytest.raises(InputError, match="mask is empty"):
        prompter.propagate(np.zeros((60, 50)), 12, "stored")
    with pytest.raises(InputError, match="must lie within"):
        prompter.propagate(ball(prompter, "stored", 12), 12, "stored", range=(13, 20))


def test_a_volume_must_be_set_first(bundle):
    with pytest.raises(InputError, match="No volume was set"):
        Prompter(bundle, device="cpu", engine="torch").predict("axial", 0, [(1, 1)])


def test_a_model_that_takes_no_clicks_is_refused():
    with pytest.raises(BundleError, match="takes no clicks"):
        Prompter("default", device="cpu")


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((1, 40, 40), (1, 1, 1)), ((40, 40, 3), (20, 1, 1)), ((5, 30, 30), (0.2, 0.2, 4)), ((3, 17, 300), (1, 1, 1))],
)
def test_unusual_volumes_are_answered(prompter: Prompter, shape, spacing):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    array[0, 0, 0] = np.nan
    prompter.set_volume(Volume(array, np.diag([*spacing, 1.0])))
    for plane in ("axial", "coronal", "sagittal"):
        rows, columns = prompter.stack(plane).shape[1:]
        found = prompter.predict(plane, 0, [(rows // 2, columns // 2), (0, 0)], labels=[1, 0])

        assert found.shape == (rows, columns)
        assert np.isfinite(found).all()


def test_the_true_network_answers_through_every_engine_alike(bundle):
    volume = two_balls()
    answers = []
    for engine in ("torch", "auto"):
        prompter = Prompter(bundle, device="cpu", engine=engine)
        prompter.set_volume(volume)
        answers.append(prompter.predict("axial", 12, [(20, 20)]))

    np.testing.assert_allclose(answers[0], answers[1], atol=1e-3)


def test_maps_of_training_and_of_answering_are_the_same():
    rng = np.random.default_rng(1)
    image = rng.random((48, 48)).astype(np.float32)
    positive, negative = np.zeros((48, 48), bool), np.zeros((48, 48), bool)
    positive[10, 12] = positive[11, 30] = negative[40, 5] = True
    answer = rng.random((48, 48)).astype(np.float32)
    neighbour = np.zeros((48, 48), np.float32)
    neighbour[20:35, 10:22] = 1
    nothing = np.zeros((48, 48), np.float32)

    def of_batch(array):
        return torch.from_numpy(array)[None]

    here = network_input(image, PicturePrompts(positive, negative, nothing, answer, neighbour))
    there = training.network_input(
        of_batch(image),
        training.Prompts(
            of_batch(positive), of_batch(negative), of_batch(nothing), of_batch(answer), of_batch(neighbour),
            of_batch(np.zeros((48, 48), bool)),
        ),
    )  # fmt: skip
    np.testing.assert_allclose(here, there[0].numpy(), atol=2e-2)
    assert np.abs(here - there[0].numpy()).mean() < 1e-4


def test_the_way_with_the_lowest_barrier_counts():
    cost = np.array([[0.1, 0.9, 0.2], [0.1, 0.9, 0.2], [0.1, 0.3, 0.2]], np.float32)
    seeds = np.zeros((3, 3), bool)
    seeds[0, 0] = True

    expected = [[0.1, 0.9, 0.3], [0.1, 0.9, 0.3], [0.1, 0.3, 0.3]]
    np.testing.assert_allclose(minimax(cost, seeds), expected)
    by_steps = training.minimax_by_steps(torch.from_numpy(cost)[None, None], torch.from_numpy(seeds)[None, None])
    np.testing.assert_allclose(by_steps[0, 0], expected)


@pytest.mark.parametrize("given", ["click", "box"])
def test_the_command_line_answers_to_points_in_space(tmp_path, capsys, given: str):
    scan, out = tmp_path / "scan.nii.gz", tmp_path / "kidney.seg.nrrd"
    volume, truth = two_balls(), ball_in_space()
    noise = np.random.default_rng(0).normal(0, 5, volume.array.shape)
    write_volume(scan, (volume.array + noise).astype(np.float32), volume.ijk_to_ras)

    def place(i: int, j: int) -> str:
        return ",".join(f"{value:g}" for value in (volume.ijk_to_ras @ [i, j, 12, 1])[:3])

    prompts = {"click": ["--at", place(20, 20), "--not", place(30, 45)],
               "box": ["--box", f"{place(12, 12)},{place(28, 28)}"]}[given]  # fmt: skip
    code = main(["prompt", str(scan), *prompts, "--propagate", "--name", "Kidney", "--device", "cpu",
                 "-o", str(out), "--json"])  # fmt: skip

    assert code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["slice"] == 12 and told["first"] < 12 < told["last"] and len(told["reasons"]) == 2
    labels, classes = read_labelmap(out)
    assert [segment.name for segment in classes] == ["Kidney"]
    assert dice(labels.array > 0, truth) > 0.8


def test_the_command_line_tells_what_is_missing(bundle, tmp_path, capsys):
    scan = tmp_path / "scan.nii.gz"
    volume = two_balls()
    write_volume(scan, volume.array, volume.ijk_to_ras)

    assert main(["prompt", str(scan), "--model", str(bundle.folder), "-o", str(tmp_path / "a.seg.nrrd")]) == 1
    assert "No prompt says what belongs" in capsys.readouterr().err
    assert main(["prompt", str(scan), "--at", "-900,0,0", "--model", str(bundle.folder), "-o",
                 str(tmp_path / "a.seg.nrrd")]) == 1  # fmt: skip
    assert "outside the volume" in capsys.readouterr().err
    assert not (tmp_path / "a.seg.nrrd").exists()
