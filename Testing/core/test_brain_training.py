"""The image generator and the run that made the shipped model, on label maps of a few voxels made here."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from rwkv_core import load_bundle
from rwkv_core.bundle.config import config_text
from rwkv_core.cli import main
from rwkv_core.training.losses import SidedLoss
from rwkv_core.training.synthesis import (
    DISTANT_FLUID,
    OUTER_FLUID,
    SAGITTAL,
    BlockGenerator,
    SliceGenerator,
    Variation,
    read_label_maps,
    tell_fluids_apart,
)

from core.small_models import config

pytestmark = pytest.mark.long

IDS = [0, 24, 502, 2, 3, 41, 42]  # air, fluid, skull, white matter and cortex of both sides
CLASSES = [(2, 41), (3, 42), (24, OUTER_FLUID)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two heads of nested boxes in SynthSeg's layout: skull, fluid, cortex, white matter; left and right differ."""
    folder = tmp_path_factory.mktemp("label maps")
    for number in (1, 2):
        x, y, z = np.indices((60, 64, 56))
        depth = np.minimum.reduce([x, 59 - x, y, 63 - y, z, 55 - z]) - number
        right = x >= 30  # voxels run toward right, anterior, superior
        label = np.select(
            [depth < 2, depth < 5, depth < 8, depth < 12],
            [0, 502, 24, np.where(right, 42, 3)],
            np.where(right, 41, 2),
        )
        image = sitk.GetImageFromArray(label.transpose(2, 1, 0).astype(np.float32))
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        sitk.WriteImage(image, str(folder / f"training_seg_{number:02}.nii.gz"))
    priors = folder / "labels_classes_priors"
    priors.mkdir()
    np.save(priors / "generation_labels.npy", np.array(IDS, np.int32))
    np.save(priors / "generation_classes.npy", np.arange(len(IDS)))
    np.save(priors / "generation_classes_contrast_specific.npy", np.array([0, 1, 2, 3, 4, 3, 4]))
    np.save(priors / "prior_means_t1.npy", np.array([[5.0, 40, 90, 150, 100], [1.0, 5, 20, 10, 10]]))
    np.save(priors / "prior_stds_t1.npy", np.array([[4.0, 10, 30, 8, 9], [1.0, 3, 9, 2, 2]]))
    return folder


def test_label_maps_are_read_in_patient_directions(folder):
    source = read_label_maps(folder)
    assert source.maps.shape == (2, 60, 64, 56)
    ids = source.ids[source.maps[0].long()]
    assert set(ids[:30].unique().tolist()) == {0, 502, OUTER_FLUID, 3, 2}  # the left half comes first along X
    assert set(ids[30:].unique().tolist()) == {0, 502, OUTER_FLUID, 42, 41}
    assert source.brain[0, 0].tolist() == [9, 9, 9]  # fluid is not brain


def test_maps_that_do_not_belong_are_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no training_seg"):
        read_label_maps(tmp_path)
    (tmp_path / "labels_classes_priors").symlink_to(folder / "labels_classes_priors")
    image = sitk.Image(8, 8, 8, sitk.sitkUInt8) + 99
    sitk.WriteImage(image, str(tmp_path / "training_seg_01.nii.gz"))
    with pytest.raises(ValueError, match="99"):
        read_label_maps(tmp_path)
    image.SetSpacing((2, 1, 1))
    sitk.WriteImage(image, str(tmp_path / "training_seg_01.nii.gz"))
    with pytest.raises(ValueError, match="1 mm expected"):
        read_label_maps(tmp_path)


def test_batches_have_the_promised_shapes_ranges_and_classes(folder):
    generate = SliceGenerator(read_label_maps(folder), CLASSES, spacing=1.0, seed=0)
    seen = set()
    for _ in range(4):
        image, label, plane = generate(8, 48, 64)
        assert image.shape == (8, 1, 48, 64)
        assert image.dtype == torch.float32
        assert 0 <= image.min() <= image.max() <= 1
        assert torch.isfinite(image).all()
        assert label.shape == (8, 48, 64)
        assert set(plane.tolist()) <= {0, 1, 2}
        seen |= set(label.unique().tolist())
    assert seen == {0, 1, 2, 3}


def test_seed_decides(folder):
    source = read_label_maps(folder)
    first = SliceGenerator(source, CLASSES, 1.0, seed=5)(3, 32, 32)
    again = SliceGenerator(source, CLASSES, 1.0, seed=5)(3, 32, 32)
    other = SliceGenerator(source, CLASSES, 1.0, seed=6)(3, 32, 32)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_image_shows_what_the_label_says(folder):
    """Within most images, pixels of one class are more alike than pixels of all classes."""
    image, label, _ = SliceGenerator(read_label_maps(folder), CLASSES, 1.0, seed=1)(32, 48, 48)
    better = 0
    for channel, truth in zip(image[:, 0], label, strict=True):
        within = torch.stack([channel[truth == c].var(correction=0) * (truth == c).sum() for c in truth.unique()]).sum()
        better += bool(within / truth.numel() < 0.8 * channel.var(correction=0))
    assert better > 24


@pytest.mark.parametrize("seed", [2, 3])
def test_left_is_left_in_every_axial_and_coronal_slice(folder, seed):
    """Half of the heads are mirror images, and still columns run toward the left: class 2 comes after class 1."""
    upright = Variation(rotated=5, tilted=5, bent=1)
    generate = SliceGenerator(read_label_maps(folder), [(42, 41), (3, 2)], 1.0, seed, upright)
    _, label, plane = generate(24, 64, 64)
    columns = torch.arange(64.0)[None].expand(64, 64)
    compared = 0
    for truth in label[plane != SAGITTAL]:
        right, left = (columns[truth == side] for side in (1, 2))
        if min(len(right), len(left)) > 50:
            compared += 1
            assert right.mean() < left.mean()
    assert compared > 3


def test_fluid_is_told_apart_by_where_it_lies():
    """A sulcus belongs to the brain's envelope; fluid below the skull does not; fluid along the spine is distant."""
    ids = np.zeros((60, 60, 90), np.int16)
    ids[10:50, 10:50, 40:80] = 24
    ids[15:45, 15:45, 45:75] = 3
    ids[29:32, 20:40, 60:75] = 24  # a sulcus
    ids[28:32, 28:32, 2:45] = 24  # the spine
    told = tell_fluids_apart(ids, np.array([15, 15, 45]), np.array([44, 44, 74]))
    assert told[30, 30, 65] == 24
    assert told[12, 30, 60] == OUTER_FLUID
    assert told[30, 30, 5] == DISTANT_FLUID
    assert np.array_equal(told == 3, ids == 3)


def test_pairs_count_together_where_sides_cannot_be_told():
    loss = SidedLoss([0, 2, 1])
    label = torch.tensor([[[0, 1], [2, 1]]])
    truth = 50.0 * torch.nn.functional.one_hot(label, 3).permute(0, 3, 1, 2)
    swapped = truth[:, [0, 2, 1]]
    sided, sideless = torch.tensor([False]), torch.tensor([True])
    for logits, slices, right in ((truth, sided, True), (swapped, sided, False), (swapped, sideless, True)):
        entropy, dice = loss(logits, label, slices)
        assert bool(entropy < 1e-3) == right
        assert bool(dice > 0.99) == right


def test_blocks_show_what_their_labels_say(folder):
    generate = BlockGenerator(read_label_maps(folder), CLASSES, spacing=1.5, seed=3)
    image, label = generate.blocks(12, 16, 32, 24)
    assert image.shape == (12, 1, 16, 32, 24)
    assert label.shape == (12, 16, 32, 24)
    assert 0 <= image.min() <= image.max() <= 1
    assert set(label.unique().tolist()) == {0, 1, 2, 3}
    better = 0
    for channel, truth in zip(image[:, 0], label, strict=True):
        within = torch.stack([channel[truth == c].var(correction=0) * (truth == c).sum() for c in truth.unique()]).sum()
        better += bool(within / truth.numel() < 0.8 * channel.var(correction=0))
    assert better > 8


def test_blocks_lie_as_axial_stacks_do(folder):
    """Columns run toward the left: the right of the head, class 2, comes first wherever a block shows both."""
    classes = [(3, 2), (42, 41)]
    generator = BlockGenerator(read_label_maps(folder), classes, spacing=1.0, seed=3)
    generator._uniform = lambda low, high, *shape: torch.full(shape, (low + high) / 2)  # no random pose
    _, label = generator.blocks(2, 16, 16, 48)
    columns = torch.arange(48.0)
    for label_map in label:
        sides = [columns[None, None].expand_as(label_map)[label_map == side].mean() for side in (1, 2)]
        assert sides[1] < sides[0]


@pytest.mark.filterwarnings("ignore")  # Lightning's advice about loaders and loggers
def test_a_run_ends_with_a_bundle_and_goes_on_where_it_stopped(folder, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = ["train", str(folder), "--preset", "brain", "-o", str(run), "--device", "cpu"]
    arguments += ["--set", "batch=1", "--set", "workers=0"]
    assert main([*arguments, "--set", "steps=2"]) == 0
    first = load_bundle(run / "bundle")
    assert first.config.training["images"] == 2
    before = first.network.state_dict()
    assert main([*arguments, "--set", "steps=2"]) == 1  # never over an older run
    assert "--resume" in capsys.readouterr().err
    assert main([*arguments, "--set", "steps=3", "--resume"]) == 0
    second = load_bundle(run / "bundle")
    assert second.config.training["steps"] == 3
    after = second.network.state_dict()
    learned = "encoder.stage1.0.norm.running_mean"  # in float32: matrices are rounded to half precision in the bundle
    assert not torch.equal(before[learned], after[learned])


@pytest.mark.filterwarnings("ignore")
def test_the_background_is_adjusted_after_training_and_not_twice(folder, tmp_path):
    def background(*arguments):
        run = tmp_path / str(len(list(tmp_path.iterdir())))
        settings = "batch=1", "workers=0", "steps=1", "rate=1e-9"
        changes = [word for setting in settings for word in ("--set", setting)]
        command = ["train", str(folder), "--preset", "brain", "-o", str(run), "--device", "cpu", *changes, *arguments]
        assert main(command) == 0
        return run / "bundle", float(load_bundle(run / "bundle").network.final_conv.bias[0])

    _, plain = background("--set", "background=0")
    bundle, adjusted = background()
    assert adjusted == pytest.approx(plain - 1.5, abs=1e-3)
    assert background("--init", str(bundle))[1] == pytest.approx(adjusted, abs=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_a_volumetric_network_is_trained_on_blocks(folder, tmp_path):
    patches = {"method": "patches", "spacing": (2.0, 2.0, 2.0), "size": (16, 32, 32)}
    described = config(resampling=patches, architecture="u-rwkv", values=(1, 2)).model_dump(mode="json")
    for entry, ids in zip(described["classes"], CLASSES, strict=False):
        entry["freesurfer"] = ids
    file = tmp_path / "config.json"
    file.write_text(config_text(config().model_validate(described)))
    settings = f"config={file}", "steps=1", "batch=1", "workers=0"
    changes = [word for setting in settings for word in ("--set", setting)]
    command = ["train", str(folder), "--preset", "brain", "-o", str(tmp_path / "run"), "--device", "cpu", *changes]
    assert main(command) == 0
    bundle = load_bundle(tmp_path / "run" / "bundle")
    assert bundle.config.architecture == "u-rwkv"
    assert bundle.config.training["pixels_per_image"] == 16 * 32 * 32
    bundle.verify()
