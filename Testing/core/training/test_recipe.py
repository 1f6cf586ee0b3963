"""Recipes: the paper's numbers, changes of them, and what the parts of a run do with them."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rwkv_core.bundle.config import Percentile, Spacing, Window
from rwkv_core.bundle.store import load_bundle
from rwkv_core.cli import main
from rwkv_core.errors import InputError
from rwkv_core.models import build_network
from rwkv_core.training.augmentation import Augment
from rwkv_core.training.batches import EpochOrder
from rwkv_core.training.devices import find_processes, is_first_process
from rwkv_core.training.loop import cosine_rate
from rwkv_core.training.losses import SegmentationLoss, consistency, two_views
from rwkv_core.training.recipe import Augmentation, Loss, changed_recipe, load_recipe, preset_names
from rwkv_core.training.starting_point import starting_point

PAPER = {  # size, epochs, batch, rate, minimum, weights of the loss: section IV-A
    "synapse": (224, 30, 24, 1e-3, 0, (0.5, 0.5)),
    "acdc": (224, 150, 24, 5e-4, 0, (0.2, 0.8)),
    "binary": (256, 300, 8, 1e-4, 1e-5, (0.5, 1)),
    "goals": (256, 300, 8, 1e-4, 1e-5, (0.5, 1)),
    "fugc": (256, 300, 8, 1e-3, 1e-5, (0.5, 1)),
}


@pytest.mark.parametrize("name", PAPER)
def test_presets_are_the_papers(name):
    recipe = load_recipe(name)
    resampling = recipe.preprocessing.resampling
    weights = (recipe.loss.cross_entropy, recipe.loss.dice)
    assert resampling.height == resampling.width
    assert (
        resampling.height, recipe.epochs, recipe.batch, recipe.learning_rate, recipe.minimum_rate, weights,
    ) == PAPER[name]  # fmt: skip
    assert (recipe.consistency is not None) == (name == "fugc")


def test_presets_of_the_catalogues_families_prepare_slices_as_they_do():
    from rwkv_core.bundle.catalogue import load_catalogue

    for name in ("synapse", "acdc"):
        assert load_recipe(name).preprocessing == load_catalogue().families[name].preprocessing
    assert load_recipe("synapse").weight_decay == 1e-3
    assert load_recipe("acdc").weight_decay == 1.5e-4


def test_every_field_can_be_changed():
    changes = ["batch=12", "learning_rate=1e-4", "loss.dice=1", "preprocessing.resampling.height=512"]
    changes += ["patch=[64, 96]", "early_stopping=null", "augmentation.rotate=0.25"]
    recipe = load_recipe("synapse", changes, init="default")
    assert (recipe.batch, recipe.learning_rate, recipe.loss.dice, recipe.init) == (12, 1e-4, 1, "default")
    assert recipe.preprocessing.resampling.height == 512
    assert recipe.patch == (64, 96)
    assert recipe.augmentation.rotate == 0.25
    assert recipe.augmentation.crop == 0.1
    assert "finetune" in preset_names()


def test_a_field_of_several_kinds_can_be_changed_in_any_order():
    window = ["preprocessing.intensity.low=-160", "preprocessing.intensity.method=window"]
    recipe = load_recipe("synapse", [*window, "preprocessing.intensity.high=240"])
    assert recipe.preprocessing.intensity == Window(method="window", low=-160, high=240)
    recipe = load_recipe("synapse", ["preprocessing.resampling.method=spacing", "preprocessing.resampling.pixel=0.8"])
    assert recipe.preprocessing.resampling == Spacing(method="spacing", pixel=0.8)
    recipe = load_recipe("synapse", ["preprocessing.intensity={method: zscore}"])
    assert recipe.preprocessing.intensity.method == "zscore"
    again = changed_recipe(recipe, ["preprocessing.intensity.method=percentile", "preprocessing.intensity.low=1",
                                    "preprocessing.intensity.high=99"])  # fmt: skip
    assert again.preprocessing.intensity == Percentile(method="percentile", low=1, high=99)
    with pytest.raises(InputError, match="high: Field required"):
        load_recipe("synapse", ["preprocessing.intensity.low=1", "preprocessing.intensity.method=percentile"])


def test_a_recipe_that_takes_its_preparation_from_a_model_can_change_a_part_of_it():
    own = load_bundle("default").config.preprocessing
    recipe = load_recipe("finetune", ["preprocessing.resampling.pixel=0.9"])
    assert recipe.preprocessing.resampling.pixel == 0.9
    assert recipe.preprocessing.intensity == own.intensity and recipe.preprocessing.orientations == own.orientations


@pytest.mark.parametrize(
    ("changes", "words"),
    [(["batch"], "not understood"), (["batch=0"], "batch"), (["bach=1"], "bach"), (["loss.dice=-1"], "loss.dice"),
     (["patch=[65, 64]"], "multiples of 16"), (["minimum_rate=1"], "minimum_rate")],
)  # fmt: skip
def test_wrong_changes_are_named(changes, words):
    with pytest.raises(InputError, match=words):
        load_recipe("synapse", changes)


def test_the_command_line_shows_the_recipe_that_it_would_use(tmp_path, capsys):
    arguments = ["train", "-o", str(tmp_path / "run"), "--preset", "fugc", "--set", "consistency.weight=0.25", "--show"]
    assert main(arguments) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == load_recipe("fugc", ["consistency.weight=0.25"]).model_dump(mode="json")
    assert shown["consistency"]["weight"] == 0.25
    assert not (tmp_path / "run").exists()


def test_the_rate_is_torchs_cosine_annealing():
    recipe = load_recipe("binary", ["epochs=7"])
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs, recipe.minimum_rate)
    for epoch in range(recipe.epochs):
        assert cosine_rate(recipe, epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_the_loss_is_transunets():
    """a CE + b Dice; Dice per class over the whole batch with squares in the denominator, background included."""
    torch.manual_seed(0)
    logits, label = torch.randn(3, 4, 8, 8), torch.randint(0, 4, (3, 8, 8))
    found = SegmentationLoss(Loss(cross_entropy=0.2, dice=0.8))(logits, label)
    probability, truth = logits.softmax(1), F.one_hot(label, 4).permute(0, 3, 1, 2).float()
    dice = 0.0
    for c in range(4):
        p, t = probability[:, c], truth[:, c]
        dice += 1 - (2 * (p * t).sum() + 1e-5) / ((p * p).sum() + (t * t).sum() + 1e-5)
    assert found.dice.item() == pytest.approx(dice.item() / 4, rel=1e-5)
    assert found.total.item() == pytest.approx(
        0.2 * F.cross_entropy(logits, label).item() + 0.8 * dice.item() / 4, rel=1e-5
    )


@pytest.mark.parametrize("seed", range(12))
def test_views_are_undone_exactly(seed):
    image = torch.rand(2, 1, 16, 16)
    for view in two_views(seed, square=True)[:2]:
        quiet = type(view)(view.turns, view.flip, gain=1.0, noise=0.0)
        assert torch.equal(quiet.undo(quiet.apply(image, torch.Generator())), image)
    assert {view.turns for s in range(40) for view in two_views(s, square=False)[:2]} == {0, 2}


def test_consistency_is_zero_for_a_network_that_turns_with_its_input():
    image = torch.rand(2, 3, 16, 16)
    first, second, noise = two_views(5, square=True)
    assert (first.turns, first.flip) != (second.turns, second.flip)
    views = [type(v)(v.turns, v.flip, 1.0, 0.0) for v in (first, second)]
    same = [v.undo(5 * v.apply(image, noise)) for v in views]
    assert consistency(*same) == 0
    assert consistency(same[0], views[1].apply(image, noise)) > 0


def test_augmentation_depends_on_the_seed_alone_and_keeps_image_and_label_together():
    everything = Augmentation(
        turn_and_flip=1, flip_rows=0.5, flip_columns=0.5, rotate=1, scale=1, brightness_contrast=1, crop=1, gamma=1,
        noise=1, blur=1,
    )  # fmt: skip
    geometry = Augmentation(turn_and_flip=1, crop=1, flip_rows=0.5)
    label = np.zeros((40, 52), np.uint8)
    label[5:20, 8:40] = 3
    label[20:33, 8:15] = 3
    image = (label / 3).astype(np.float32)[None]
    augment = Augment(everything, (32, 48))
    first, again, other = augment(image, label, 7), augment(image, label, 7), augment(image, label, 8)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (1, 32, 48)
    assert first[1].shape == (32, 48)
    assert set(first[1].unique().tolist()) <= {0, 3}
    differing = 0
    for seed in range(20):
        changed, where = Augment(geometry, (48, 48))(image, label, seed)
        assert torch.equal(changed[0] > 0.5, where == 3)
        differing += not torch.equal(where, Augment(None, (48, 48))(image, label, seed)[1])
    assert differing > 15


def test_an_epoch_shows_every_slice_once_whatever_the_processes():
    whole = EpochOrder(list(range(10, 20)), 4, seed=1)
    whole.start_at(3)
    batches = list(whole)
    assert [len(batch) for batch in batches] == [4, 4, 4]
    indices = [i for batch in batches for i, _ in batch]
    assert sorted(indices[:10]) == list(range(10, 20))
    shares = []
    for rank in range(2):
        part = EpochOrder(list(range(10, 20)), 4, seed=1, rank=rank, processes=2)
        part.start_at(3)
        shares.append(list(part))
    assert [a + b for a, b in zip(*shares, strict=True)] == batches
    whole.start_at(3, step=1)
    assert list(whole) == batches[1:]
    whole.start_at(4)
    assert list(whole) != batches


def test_unlabelled_slices_come_along():
    order = EpochOrder([0, 1, 2, 3], 2, seed=0, unlabelled=[7, 8, 9], unlabelled_batch=3)
    batches = list(order)
    assert [len(batch) for batch in batches] == [5, 5]
    assert all(
        {i for i, _ in batch[:2]} <= {0, 1, 2, 3} and {i for i, _ in batch[2:]} <= {7, 8, 9} for batch in batches
    )


def test_encoders_and_checkpoints_start_a_run(tmp_path):
    """Files with the names of the published ones: an encoder, and a network with other classes."""
    from rwkv_core.errors import CheckpointError
    from rwkv_core.vocabulary import SegmentClass

    torch.manual_seed(1)
    source = build_network("rwkv-unet", variant="T", num_classes=4)
    encoder = {n.removeprefix("encoder."): v for n, v in source.state_dict().items() if n.startswith("encoder.")}
    torch.save(encoder, tmp_path / "net_T.pth")
    torch.save(source.state_dict(), tmp_path / "acdc.pth")
    classes = tuple(SegmentClass(value=n, name=f"C{n}", color=(0, 0, 0)) for n in (1, 2))
    name = "encoder.stage3.1.att.key.weight"
    for file in ("net_T.pth", "acdc.pth"):
        start = starting_point(str(tmp_path / file), None, classes, in_channels=3)
        assert torch.equal(start.network.state_dict()[name], source.state_dict()[name])
        assert start.network.num_classes == 3
        assert file in start.record
    with pytest.raises(CheckpointError, match="asks for B") as error:
        starting_point(str(tmp_path / "net_T.pth"), "B", classes, in_channels=1)
    assert "variant T" in error.value.hint
    with pytest.raises(CheckpointError, match="cannot be read"):
        starting_point(str(tmp_path / "none.pth"), None, classes, in_channels=1)


def test_processes_are_those_of_the_launcher(monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_NNODES"):
        monkeypatch.delenv(name, raising=False)
    assert find_processes(2).total == 2
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (find_processes(1).local, find_processes(1).machines) == (4, 2)
    monkeypatch.delenv("WORLD_SIZE")
    for name, value in (("SLURM_PROCID", "3"), ("SLURM_NTASKS", "16"), ("SLURM_NNODES", "2")):
        monkeypatch.setenv(name, value)
    assert (find_processes(1).local, find_processes(1).machines) == (8, 2)
    assert find_processes(1).total == 16


@pytest.mark.parametrize(
    ("variables", "first"),
    [({}, True), ({"RANK": "0", "LOCAL_RANK": "0"}, True), ({"RANK": "4", "LOCAL_RANK": "0"}, False),
     ({"SLURM_PROCID": "3"}, False), ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False)],
    ids=["alone", "torchrun's first", "torchrun's first on the second machine", "srun's fourth", "ours in a SLURM job"],
)  # fmt: skip
def test_one_process_writes(monkeypatch, variables, first):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == first
