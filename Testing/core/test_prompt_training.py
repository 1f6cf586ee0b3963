"""What the promptable model learns from, and the run that makes it, on a few voxels made here."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from rwkv_core import Prompter, Volume, write_volume
from rwkv_core.bundle.store import load_bundle
from rwkv_core.cli import main
from rwkv_core.errors import CancelledError, InputError
from rwkv_core.training.prompt.over_segmentation import region_scales
from rwkv_core.training.prompt.samples import SampleGenerator, grown_within
from rwkv_core.training.prompt.sources import read_heads, read_scans
from rwkv_core.training.prompt.training import PromptRecipe, train_promptable
from rwkv_core.training.prompt.user import SimulatedUser, inner_distance

IDS = [0, 24, 502, 2, 3]
CPU = torch.device("cpu")
TINY = PromptRecipe(seconds=1e-3, batch=4, size=48, held_out=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three heads of nested boxes, and a CT of a body with a bone, in the layout of the training data."""
    data = tmp_path_factory.mktemp("data")
    maps = data / "training_label_maps"
    (maps / "labels_classes_priors").mkdir(parents=True)
    for number in (1, 2, 3):
        x, y, z = np.indices((60, 64, 56))
        depth = np.minimum.reduce([x, 59 - x, y, 63 - y, z, 55 - z]) - number
        label = np.select([depth < 2, depth < 6, depth < 12], [0, 502, 3], 2)
        image = sitk.GetImageFromArray(label.transpose(2, 1, 0).astype(np.float32))
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        sitk.WriteImage(image, str(maps / f"training_seg_{number:02}.nii.gz"))
    priors = maps / "labels_classes_priors"
    np.save(priors / "generation_labels.npy", np.array(IDS, np.int32))
    np.save(priors / "generation_classes.npy", np.arange(len(IDS)))
    np.save(priors / "generation_classes_contrast_specific.npy", np.arange(len(IDS)))
    np.save(priors / "prior_means_t1.npy", np.full((2, len(IDS)), 50.0))
    np.save(priors / "prior_stds_t1.npy", np.full((2, len(IDS)), 5.0))
    images = data / "prompt" / "training_images"
    images.mkdir(parents=True)
    _, j, i = np.indices((24, 48, 52))
    body = np.where((j - 24) ** 2 + (i - 26) ** 2 < 400, 40, -1000)
    body = np.where((j - 30) ** 2 + (i - 26) ** 2 < 40, 700, body) + np.random.default_rng(0).normal(0, 8, body.shape)
    write_volume(images / "ct.nii.gz", body.astype(np.int16), np.diag([-2.0, -2.0, 3.0, 1.0]))
    return data


@pytest.fixture(scope="module")
def samples(data):
    random = torch.Generator().manual_seed(0)
    heads, _ = read_heads(data / "training_label_maps", CPU, 1)
    scans = read_scans(data / "prompt" / "training_images", CPU)
    return SampleGenerator(heads, scans, random)(24, 64)


def test_samples_are_images_with_a_structure_in_each(samples):
    assert samples.image.shape == samples.target.shape == samples.neighbour.shape == (24, 64, 64)
    assert samples.image.min() >= 0 and samples.image.max() <= 1
    area = samples.target.flatten(1).float().mean(1)
    assert (area > 0).float().mean() > 0.8
    assert 0 < samples.neighbour.flatten(1).any(1).float().mean() < 0.8


def test_bone_is_a_region_of_its_own():
    volume = torch.full((12, 30, 30), 100.0)
    volume[:, 10:20, 8:18] = 200.0
    regions = region_scales(volume + torch.rand(volume.shape), (50, 400), tolerance=22.0)[-1]
    inside, outside = regions[:, 11:19, 9:17].unique(), regions[:, :9].unique()
    assert not set(inside.tolist()) & set(outside.tolist())
    assert len(inside) < 6


def test_the_user_clicks_inside_first_and_then_where_the_answer_is_wrong(samples):
    user = SimulatedUser(torch.Generator().manual_seed(1), careful=True)
    there = samples.target.flatten(1).any(1)
    target = samples.target[there]
    prompts = user.first(target, torch.zeros_like(target))
    assert (prompts.positive & ~target).sum() == 0
    assert (prompts.positive.flatten(1).sum(1) == 1).all()

    everything = torch.ones(target.shape)
    corrected = user.correct(prompts, everything, target)
    assert (corrected.negative & target).sum() == 0
    assert (corrected.negative.flatten(1).sum(1) == 1).all()
    assert torch.equal(corrected.answer, everything)


def test_inner_distances_and_parts():
    mask = torch.zeros((1, 20, 20), dtype=torch.bool)
    mask[0, 2:9, 3:10] = True
    mask[0, 14:16, 14:16] = True
    distance = inner_distance(mask)
    assert distance[0, 5, 6] == 4
    assert distance[0, 0, 0] == 0
    start = torch.zeros_like(mask)
    start[0, 2, 3] = True
    part = grown_within(start, mask)
    assert part[0, 8, 9] and not part[0, 14, 14]


def test_a_run_goes_on_from_a_promptable_model(data, tmp_path):
    recipe = PromptRecipe(seconds=1e6, batch=2, size=32, held_out=2, rate=1e-12)
    with pytest.raises(CancelledError):
        train_promptable(data, tmp_path, recipe, "cpu", tell=lambda line: None, stop=lambda: True, init="prompt")
    weights = torch.load(tmp_path / "last.pt", weights_only=True)["network"]
    shipped = load_bundle("prompt").network.state_dict()
    name = next(name for name, value in shipped.items() if value.ndim == 4)
    torch.testing.assert_close(weights[name], shipped[name])


@pytest.mark.long
def test_a_run_leaves_a_model_that_answers_and_can_go_on(data, tmp_path):
    stopped = iter([True])
    with pytest.raises(CancelledError):
        train_promptable(
            data, tmp_path, PromptRecipe(seconds=1e6, batch=4, size=48, held_out=3), "cpu",
            tell=lambda line: None, stop=lambda: next(stopped, False),
        )  # fmt: skip
    with pytest.raises(InputError, match="holds a run already"):
        train_promptable(data, tmp_path, TINY, "cpu", tell=lambda line: None)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert state["steps"] >= 1
    state["recipe"]["seconds"] = 1e-3
    torch.save(state, tmp_path / "last.pt")

    told = []
    folder = train_promptable(data, tmp_path, device="cpu", resume=True, tell=told.append)

    assert any("held out" in line for line in told)
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
    prompter = Prompter(folder, "cpu", engine="torch")
    prompter.set_volume(Volume(np.random.default_rng(0).normal(size=(3, 40, 40)), np.eye(4)))
    assert prompter.predict("stored", 1, [(20, 20)]).shape == (40, 40)


def test_the_command_line_tells_what_is_wrong(tmp_path, data, capsys):
    run = str(tmp_path / "run")
    assert main(["train", "--preset", "prompt", "-o", run]) == 1
    assert "prompt/training_images" in capsys.readouterr().err
    assert main(["train", str(data), "--preset", "prompt", "-o", run, "--set", "epochs=3"]) == 1
    assert "epochs" in (words := capsys.readouterr().err) and "Fields are: seconds" in words
    assert main(["train", str(tmp_path), "--preset", "prompt", "-o", run, "--device", "cpu"]) == 1
    assert "There is no .nii.gz" in capsys.readouterr().err
    assert main(["train", str(data), "--preset", "prompt", "-o", run, "--init", "default", "--device", "cpu"]) == 1
    assert "does not answer to clicks" in capsys.readouterr().err
