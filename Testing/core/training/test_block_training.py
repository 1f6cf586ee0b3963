"""Runs of the volumetric network: blocks of volumes in, a model that segments out."""

import json
import sys

import numpy as np
import pytest
import torch

from rwkv_core import Segmenter
from rwkv_core.cli import main
from rwkv_core.errors import BundleError, InputError
from rwkv_core.inference.sliding_window import blended_planes
from rwkv_core.training import loop
from rwkv_core.training.augmentation import AugmentBlock
from rwkv_core.training.batches import TrainingBlocks, blocks_of_epoch
from rwkv_core.training.datasets import open_dataset
from rwkv_core.training.datasets.splitting import divided
from rwkv_core.training.evaluation import evaluate
from rwkv_core.training.recipe import Augmentation, Job, load_recipe, require_fitting
from rwkv_core.training.run import train
from rwkv_core.training.slice_cache import CachedSlice, SliceCache
from rwkv_core.training.slices import prepared_slices
from rwkv_core.volume import read_volume

from core.small_models import BandNetwork, config, with_network
from core.training.data_sets import BALL, BOX, nnunet, scene, write_nifti
from core.training.tiny_runs import curve, resume, run

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]

PATCHES = {"method": "patches", "spacing": [3.0, 1.2, 1.0], "size": [16, 32, 32]}
VOLUMETRIC = {
    "architecture": "u-rwkv",
    "preprocessing": {"orientations": ["SPL"], "intensity": {"method": "zscore"}, "resampling": PATCHES},
    "batch": 2,
    "augmentation": {"rotate": 0.5, "scale": 0.5, "flip_rows": 0.5, "gamma": 0.5, "noise": 0.5, "blur": 0.5},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three volumes of 20 slices, 3 mm apart."""
    folder = nnunet(tmp_path_factory.mktemp("data") / "Dataset 002")
    for n in range(3):
        image, label = scene(n, (20, 40, 36))
        write_nifti(folder / "imagesTr" / f"case{n}_0000.nii.gz", image)
        write_nifti(folder / "labelsTr" / f"case{n}.nii.gz", label)
    return folder


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return run(data, folder / "run", store=folder / "store", name="tiny-blocks", **VOLUMETRIC)


def test_a_run_ends_with_a_model_that_segments(whole, data):
    folder = whole.bundle.folder.parent.parent / "run"
    written = whole.bundle.config
    assert (written.architecture, written.variant) == ("u-rwkv", "T")
    assert written.preprocessing.resampling.size == (16, 32, 32)
    volume = read_volume(data / "imagesTr" / "case0_0000.nii.gz")
    result = Segmenter(whole.bundle, "cpu", engine="torch").segment(volume)
    assert result.labelmap.shape == volume.array.shape
    assert {"validation_loss", "validation_dice", "dice_Ball", "dice_Box"} <= set(whole.progress.rows[-1])
    preview = np.load(folder / "preview.npz")
    assert preview["image"].shape == (1, 40, 36)
    assert preview["label"].any()
    log = (folder / "log.txt").read_text(encoding="utf-8")
    assert "random weights (U-RWKV-T)" in log
    assert "steps of 2 blocks" in log


def test_the_validation_is_that_of_the_segmenter(whole, data, monkeypatch):
    """At the network's own spacing, so that the grids are the same: Dice of whole cases, block by block."""
    monkeypatch.setitem(sys.modules, "openvino", None)  # compiling takes longer than the cases
    split = json.loads((whole.bundle.folder.parent.parent / "run" / "config.json").read_text())["recipe"]["division"]
    dataset = divided(open_dataset(data), split["validation"], split["test"], split["seed"])
    found = evaluate(whole.bundle, dataset, split="validation", device="cpu")
    best = whole.progress.rows[whole.progress.best_epoch - 1]
    for name in ("Ball", "Box"):
        assert found.mean_of(name).dice == pytest.approx(best[f"dice_{name}"], abs=2e-3)


def test_learning_happens(data, tmp_path):
    result = run(
        data, tmp_path / "run", store=tmp_path / "s",
        **{**VOLUMETRIC, "augmentation": {}, "epochs": 6, "learning_rate": 5e-3},
    )  # fmt: skip
    assert result.progress.rows[-1]["loss"] < 0.7 * result.progress.rows[0]["loss"]


@pytest.mark.parametrize("moment", [1, 3], ids=["within an epoch", "within the second epoch"])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(whole, data, tmp_path, monkeypatch, moment):
    done = []
    inner = loop.Loop._step

    def spy(self, image, label, number):
        done.append(number)
        return inner(self, image, label, number)

    monkeypatch.setattr(loop.Loop, "_step", spy)
    stopped = run(
        data, tmp_path / "run", store=tmp_path / "store", name="tiny-blocks", cancel=lambda: len(done) == moment,
        **VOLUMETRIC,
    )  # fmt: skip
    assert not stopped.finished
    done.clear()
    finished = resume(tmp_path / "run", store=tmp_path / "store")
    assert finished.finished
    assert curve(finished.progress.rows) == curve(whole.progress.rows)
    first, second = whole.bundle.network.state_dict(), finished.bundle.network.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fine_tuning_takes_grid_and_classes_from_the_model(whole, data, tmp_path):
    recipe = load_recipe("finetune", ["epochs=1", "batch=2", "workers=0"], init=str(whole.bundle.folder))
    result = train(Job(str(data), "tuned", recipe), tmp_path / "run", device="cpu", store=tmp_path / "store")
    assert result.bundle.config.preprocessing == whole.bundle.config.preprocessing
    assert "output kept for: Ball, Box" in result.bundle.config.training["started from"]


def test_slices_and_blocks_are_refused_in_words(whole, data, tmp_path, capsys):
    blocks = str(whole.bundle.folder)
    with pytest.raises(InputError, match="U-RWKV takes blocks, and the recipe prepares slices"):
        run(data, tmp_path / "r", store=tmp_path / "s", init=blocks)
    with pytest.raises(BundleError, match="default is a model of RWKV-UNet, and the recipe trains U-RWKV"):
        run(data, tmp_path / "r", store=tmp_path / "s", init="default", **VOLUMETRIC)
    with pytest.raises(InputError, match="RWKV-UNet takes slices, and the recipe prepares blocks") as error:
        run(data, tmp_path / "r", store=tmp_path / "s", **{**VOLUMETRIC, "architecture": None})
    assert "stretch or spacing" in error.value.hint
    with pytest.raises(BundleError, match="is a model of RWKV-UNet"):
        run(data, tmp_path / "r", store=tmp_path / "s", init=str(tmp_path / "net_T.pth"), **VOLUMETRIC)
    for field, value, words in (
        ("variant", "B", "no variant B"),
        ("patch", [32, 32], "patch is for slices"),
        ("consistency", {"folder": str(data)}, "unlabelled images"),
        ("pipeline", "paper", "published pipeline"),
        ("in_channels", 3, "gray volumes"),
    ):
        with pytest.raises(InputError, match=words):
            run(data, tmp_path / "r", store=tmp_path / "s", **{**VOLUMETRIC, field: value})
    assert not (tmp_path / "r").exists()
    assert main(["train", str(data), "-o", str(tmp_path / "r"), "--preset", "synapse", "--init", blocks]) == 1
    assert "U-RWKV" in capsys.readouterr().err


def test_the_preset_fits_the_network():
    require_fitting(load_recipe("volumetric"))
    thick = load_recipe(
        "volumetric",
        ["preprocessing.resampling.spacing=[5, 1, 1]", "preprocessing.resampling.size=[32, 160, 160]"],
    )
    assert thick.preprocessing.resampling.size == (32, 160, 160)


@pytest.mark.parametrize("spacing", [(3.0, 1.2, 1.0), (1.5, 2.0, 1.1), (5.0, 1.2, 1.0)])
def test_training_sees_the_voxels_that_segmentation_sees(data, spacing):
    """Volumes of 3.0 x 1.2 x 1.0 mm on other grids, also anisotropic ones."""
    seen = []

    class Spy(BandNetwork):
        def forward(self, image):
            seen.append(image.clone())
            return super().forward(image)

    patches = {"method": "patches", "spacing": spacing, "size": (64, 64, 64)}
    bundle = with_network(config(patches, intensity={"method": "zscore"}, architecture="u-rwkv"), Spy())
    dataset = open_dataset(data)
    Segmenter(bundle, "cpu").segment(read_volume(dataset.cases[0].images[0]))
    sample = dataset.read(dataset.cases[0])
    made = list(
        prepared_slices(sample.image, sample.label, sample, bundle.config.preprocessing, (BALL, BOX), paper=False)
    )
    image, label = np.stack([sample.image[0] for sample in made]), np.stack([sample.label for sample in made])
    expected = [round(n * a / b) for n, a, b in zip((20, 40, 36), (3.0, 1.2, 1.0), spacing, strict=True)]
    assert list(image.shape) == list(label.shape) == expected
    block = seen[0][0, 0].numpy()
    start = [(big - small) // 2 for big, small in zip(block.shape, image.shape, strict=True)]
    inner = block[tuple(slice(s, s + n) for s, n in zip(start, image.shape, strict=True))]
    assert np.array_equal(inner, image)
    assert np.array_equal(np.unique(label), [0, BALL, BOX])
    assert made[0].padding == pytest.approx(block.min() if min(start) else made[0].padding)


def cached(folder, shape, marks):
    """A cache of one training case whose voxels count from 0; `marks` are (plane, row, column) of class 1."""
    folder.mkdir()
    image = np.arange(np.prod(shape), dtype=np.float32)
    label = np.zeros(shape, np.uint8)
    for mark in marks:
        label[mark] = 1
    image.tofile(folder / "images.bin")
    label.tofile(folder / "labels.bin")
    area = shape[1] * shape[2]
    slices = tuple(
        CachedSlice("a", n, "train", (1, *shape[1:]), n * area, n * area, (1,) * bool(label[n].any()), -7.0)
        for n in range(shape[0])
    )
    return SliceCache(folder, slices), image.reshape(shape), label


def patches(size, spacing=(1.0, 1.0, 1.0)):
    return config(
        {"method": "patches", "spacing": spacing, "size": size}, architecture="u-rwkv"
    ).preprocessing.resampling


def test_blocks_are_cut_from_the_case_and_half_of_them_show_what_is_rare(tmp_path):
    cache, image, label = cached(tmp_path / "c", (64, 48, 40), [(3, 40, 5)])
    blocks = TrainingBlocks(cache, Augmentation(), patches((16, 16, 16)))
    showing = 0
    starts = set()
    for seed in range(200):
        voxels, truth = blocks[0, seed]
        first = np.unravel_index(int(voxels[0, 0, 0, 0]), image.shape)
        box = tuple(slice(s, s + 16) for s in first)
        assert np.array_equal(voxels[0], image[box])
        assert np.array_equal(truth, label[box])
        showing += bool(truth.any())
        starts.add(first)
        assert torch.equal(voxels, blocks[0, seed][0])
    assert 80 < showing < 140  # half of them, and few by chance
    assert len(starts) > 80
    assert blocks_of_epoch(cache, patches((16, 16, 16))) == [0] * 30  # 4 x 3 x 2.5 blocks fill it


def test_volumes_smaller_than_a_block_are_padded(tmp_path):
    cache, image, _ = cached(tmp_path / "c", (10, 48, 12), [])
    voxels, truth = TrainingBlocks(cache, Augmentation(), patches((16, 32, 32)))[0, 1]
    assert truth.shape == (16, 32, 32)
    assert (voxels[0, :3] == -7).all() and (voxels[0, 13:] == -7).all() and (voxels[0, :, :, :10] == -7).all()
    first = int(voxels[0, 3, 0, 10]) // 12
    assert np.array_equal(voxels[0, 3:13, :, 10:22], image[:, first : first + 32])


def test_turned_and_scaled_blocks_show_the_image_to_their_corners(tmp_path):
    cache, _, _ = cached(tmp_path / "c", (64, 64, 64), [])
    blocks = TrainingBlocks(
        cache, Augmentation(rotate=1, rotate_degrees=5, scale=1, scale_share=0.05), patches((16,) * 3)
    )
    assert blocks.augment.reach == (20, 20, 20)
    for seed in range(20):
        voxels, _ = blocks[0, seed]
        assert voxels.shape == (1, 16, 16, 16)
    middle = [blocks[0, seed][0].min() for seed in range(40)]
    assert sum(float(low) > 0 for low in middle) > 10  # blocks inside the case hold no padding


def test_augmentation_of_blocks_depends_on_the_seed_alone_and_keeps_image_and_label_together():
    everything = Augmentation(
        turn_and_flip=1, flip_rows=0.5, flip_columns=0.5, rotate=1, scale=1, brightness_contrast=1, crop=1, gamma=1,
        noise=1, blur=1,
    )  # fmt: skip
    label = np.zeros((20, 40, 40), np.uint8)
    label[5:12, 8:30, 6:20] = 3
    image = (label / 3).astype(np.float32)[None]
    augment = AugmentBlock(everything, (16, 32, 32), (3.0, 1.0, 1.0))
    assert augment.reach == label.shape
    first, again, other = augment(image, label, 7), augment(image, label, 7), augment(image, label, 8)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (1, 16, 32, 32)
    assert first[1].shape == (16, 32, 32)
    moves = AugmentBlock(Augmentation(turn_and_flip=1, crop=1, flip_rows=0.5), (20, 40, 40), (1.0, 1.0, 1.0))
    for seed in range(10):
        changed, where = moves(image, label, seed)
        assert torch.equal(changed[0] > 0.5, where == 3)


def test_thick_slices_are_not_tilted():
    """A case whose slices differ by depth alone: turned in plane they stay what they are, tilted they mix."""
    depth = np.arange(20, dtype=np.float32)[:, None, None].repeat(40, 1).repeat(40, 2)[None]
    label = np.zeros((20, 40, 40), np.uint8)
    turning = Augmentation(rotate=1, rotate_degrees=15)
    thick = AugmentBlock(turning, (16, 32, 32), (5.0, 1.0, 1.0))
    cubic = AugmentBlock(turning, (16, 32, 32), (1.0, 1.0, 1.0))
    spread = [
        [float(augment(depth, label, seed)[0][0].std((1, 2)).max()) for seed in range(5)] for augment in (thick, cubic)
    ]
    assert max(spread[0]) < 1e-3
    assert min(spread[1]) > 0.1


def test_validation_blends_as_the_sliding_window_does():
    """The planes come in order, each once."""
    grid = np.random.default_rng(0).random((40, 20, 20), np.float32)
    network = BandNetwork()
    planes = list(blended_planes(grid, patches((16, 32, 32)), lambda x: network(torch.from_numpy(x)), 0.0, 2))
    assert [n for n, _ in planes] == list(range(40))
    expected = network(torch.from_numpy(grid)[None, None])[0].numpy()
    assert np.allclose(np.stack([logits for _, logits in planes], 1), expected, atol=1e-3)
