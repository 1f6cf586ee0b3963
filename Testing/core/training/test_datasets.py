"""Every layout gives one description; what is wrong with a data set is said before a run."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from rwkv_core import Segmenter, read_volume
from rwkv_core.cli import main
from rwkv_core.errors import InputError
from rwkv_core.training.datasets import open_dataset
from rwkv_core.training.datasets.checking import check_dataset
from rwkv_core.training.datasets.splitting import divided, with_patients
from rwkv_core.training.slices import prepared_slices
from rwkv_core.vocabulary import Code, SegmentClass, Terminology
from rwkv_core.volume import choose_stack, ijk_to_ras_from_lps, write_segmentation

from core.small_models import BandNetwork, config, with_network
from core.training.data_sets import BALL, BOX, nnunet, pictures, scene, write_nifti


def said(dataset):
    """All findings as one text."""
    return "\n".join(f"{f.level} {f.case}: {f.text}" for f in check_dataset(dataset).findings)


def test_nnunet_version_2(tmp_path):
    dataset = open_dataset(nnunet(tmp_path / "d"))
    assert dataset.format == "nnU-Net raw"
    assert dataset.modality == "MR"
    assert [(c.value, c.name) for c in dataset.classes] == [(1, "Ball"), (2, "Box")]
    assert [case.id for case in dataset.cases] == ["case0", "case1", "case2"]
    image, label = scene(1)
    sample = dataset.read(dataset.cases[1])
    assert np.array_equal(sample.image[0], image)
    assert np.array_equal(sample.label, label)
    assert sample.spacing == pytest.approx((1.0, 1.2, 3.0))
    assert said(dataset) == ""


def test_nnunet_version_1_test_cases_folds_and_channels(tmp_path):
    folder = nnunet(tmp_path / "d")
    content = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "Ball", "2": "Box"}, "training": []}
    (folder / "dataset.json").write_text(json.dumps(content))
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["case0", "case1"], "val": ["case2"]}]))
    image, label = scene(9)
    write_nifti(folder / "imagesTs" / "case9_0000.nii.gz", image)
    write_nifti(folder / "labelsTs" / "case9.nii.gz", label)
    dataset = open_dataset(folder, fold=0)
    assert dataset.modality == "CT"
    assert [c.name for c in dataset.classes] == ["Ball", "Box"]
    assert {c.id: c.split for c in dataset.cases} == {
        "case0": "train", "case1": "train", "case2": "validation", "case9": "test",
    }  # fmt: skip
    with pytest.raises(InputError, match="fold 7"):
        open_dataset(folder, fold=7)
    for n in range(3):
        write_nifti(folder / "imagesTr" / f"case{n}_0001.nii.gz", scene(n)[0])
    assert "2 channels" in said(open_dataset(folder))


@pytest.mark.parametrize(
    ("labels", "words"),
    [({"background": 0, "both": [1, 2]}, "region"), ({"background": 0, "a": 1, "ignore": 2}, "ignore"), ({}, "labels")],
)
def test_nnunet_labels_that_are_not_supported(tmp_path, labels, words):
    folder = nnunet(tmp_path / "d")
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    with pytest.raises(InputError, match=words):
        open_dataset(folder)


def test_datalist(tmp_path):
    folder = nnunet(tmp_path / "d")
    entry = {"image": "imagesTr/case0_0000.nii.gz", "label": "labelsTr/case0.nii.gz", "fold": 0, "patient": "p"}
    other = {"image": "imagesTr/case1_0000.nii.gz", "label": "labelsTr/case1.nii.gz", "fold": 1}
    path = folder / "my list.json"
    path.write_text(json.dumps({"training": [entry, other], "test": ["imagesTr/case2_0000.nii.gz"]}))
    dataset = open_dataset(path, fold=1)
    assert [(c.id, c.split, c.patient) for c in dataset.cases] == [
        ("case0_0000", "train", "p"), ("case1_0000", "validation", "case1_0000"), ("case2_0000", "test", "case2_0000"),
    ]  # fmt: skip
    assert [c.name for c in dataset.classes] == ["Class 1", "Class 2"]  # as found in the labels
    assert open_dataset(path).cases[0].split is None  # left to be divided
    path.write_text(json.dumps({"training": [entry], "labels": {"0": "background", "1": "Ball", "2": "Box"}}))
    assert [c.name for c in open_dataset(path).classes] == ["Ball", "Box"]


@pytest.mark.parametrize("together", [True, False], ids=["side by side", "in two folders"])
def test_pairs_of_volumes(tmp_path, together):
    for split, n in (("train", 0), ("val", 1)):
        image, label = scene(n)
        folder = tmp_path / split
        write_nifti(folder / "a.nii.gz" if together else folder / "images" / "a.nii.gz", image)
        write_nifti(folder / "a_seg.nii.gz" if together else folder / "labels" / "a.nii.gz", label)
    (tmp_path / "labels.json").write_text(json.dumps({"1": "Liver", "2": "Spleen"}))
    dataset = open_dataset(tmp_path)
    assert [(c.id, c.split) for c in dataset.cases] == [("train-a", "train"), ("validation-a", "validation")]
    assert [c.name for c in dataset.classes] == ["Liver", "Spleen"]
    assert np.array_equal(dataset.read(dataset.cases[1]).label, scene(1)[1])
    assert "The patient a lies in train and validation" in said(dataset)


def test_pictures_with_binary_masks(tmp_path):
    dataset = open_dataset(pictures(tmp_path / "d", cases=11))
    assert dataset.format == "2-D images with masks"
    assert [c.name for c in dataset.classes] == ["Foreground"]
    assert [c.id for c in dataset.cases][-2:] == ["picture 9", "picture 10"]
    sample = dataset.read(dataset.cases[0])
    assert sample.image.shape == (3, 1, 40, 48)
    assert set(np.unique(sample.label)) == {0, 1}
    assert not sample.spacing_known
    assert open_dataset(pictures(tmp_path / "g", rgb=False)).read is not None
    grey = open_dataset(tmp_path / "g")
    assert grey.read(grey.cases[0]).image.shape == (1, 1, 40, 48)


def test_one_mask_per_class_and_masks_of_grey_values(tmp_path):
    for n in range(2):
        image, label = scene(n, (1, 32, 32))
        masks = {"masks/0": 255 * (label[0] == BALL), "masks/1": 255 * (label[0] == BOX)}
        for kind, pixels in {"images": image[0].clip(0, 255), **masks}.items():
            (tmp_path / "a" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a" / kind / f"{n}.png")
        for kind, pixels in (("images", image[0].clip(0, 255)), ("masks", label[0] * 80)):
            (tmp_path / "b" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "b" / kind / f"{n}.png")
    dataset = open_dataset(tmp_path / "a")
    assert np.array_equal(dataset.read(dataset.cases[1]).label, scene(1, (1, 32, 32))[1])
    other = open_dataset(tmp_path / "b")
    assert [c.value for c in other.classes] == [80, 160]


def test_masks_that_lie(tmp_path):
    folder = pictures(tmp_path / "jpeg", cases=1)
    (folder / "masks" / "picture 0.png").unlink()
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(folder / "masks" / "picture 0.jpg")
    with pytest.raises(InputError, match="JPEG"):
        open_dataset(folder)
    folder = pictures(tmp_path / "colour", cases=1)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 48, 3)).astype(np.uint8)).save(
        folder / "masks" / "picture 0.png"
    )
    with pytest.raises(InputError, match="color image"):
        open_dataset(folder)


def test_synapse(tmp_path):
    """Slices become a volume again, in HU, in an order that the published preset's orientation leaves as it is."""
    image, label = scene(3)
    scaled = (image - image.min()) / np.ptp(image)
    (tmp_path / "train_npz").mkdir()
    for n in range(len(image)):
        np.savez(
            tmp_path / "train_npz" / f"case0005_slice{n:03}.npz", image=scaled[n], label=label[n].astype(np.float32)
        )
    (tmp_path / "test_vol_h5").mkdir()
    with h5py.File(tmp_path / "test_vol_h5" / "case0001.npy.h5", "w") as file:
        file["image"], file["label"] = scaled, label
    dataset = open_dataset(tmp_path)
    assert [(c.id, c.split) for c in dataset.cases] == [("case0005", "train"), ("case0001", "validation")]
    assert [c.name for c in dataset.classes][:3] == ["Aorta", "Gallbladder", "Left kidney"]
    assert dataset.modality == "CT"
    for case in dataset.cases:
        sample = dataset.read(case)
        assert np.allclose(sample.image[0], -125 + 400 * scaled, atol=1e-3)
        assert np.array_equal(sample.label, label)
        stack = choose_stack(sample.ijk_to_ras, label.shape, ("SLP",))
        assert np.array_equal(stack.to_stack(sample.label), label)
    with h5py.File(tmp_path / "test_vol_h5" / "case0001.npy.h5", "w") as file:
        file["image"], file["label"] = image * 10, label
    with pytest.raises(InputError, match="0 to 1"):
        dataset.read(dataset.cases[1])


def test_acdc(tmp_path):
    image, label = scene(3)
    for name in ("patient004_frame01", "patient025_frame02", "patient071_frame01"):
        for n in range(len(image)):
            write_h5(tmp_path / "ACDC_training_slices" / f"{name}_slice_{n + 1}.h5", image[n], label[n])
    write_h5(tmp_path / "ACDC_training_volumes" / "patient004_frame01.h5", image, label)
    dataset = open_dataset(tmp_path)
    assert {c.id: c.split for c in dataset.cases} == {
        "patient004_frame01": "test", "patient025_frame02": "validation", "patient071_frame01": "train",
    }  # fmt: skip
    assert [c.name for c in dataset.classes] == ["Right ventricle", "Myocardium", "Left ventricle"]
    for case in dataset.cases:
        assert np.array_equal(dataset.read(case).label, label)
    assert next(c for c in dataset.cases if c.split == "test").patient == "patient004"


def write_h5(path, image, label):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = image, label


@pytest.fixture
def slicer(tmp_path):
    """Two cases as Slicer saves them; segments in another order, one cropped; names, colours and terminology."""
    code = Terminology(
        category=Code(scheme="SCT", value="123037004", meaning="Anatomical Structure"),
        type=Code(scheme="SCT", value="10200004", meaning="Liver"),
    )
    ball = SegmentClass(value=1, name="Liver", color=(221, 130, 101), terminology=code)
    box = SegmentClass(value=2, name="Box", color=(0, 128, 255))
    for n in range(2):
        image, label = scene(n)
        write_nifti(tmp_path / f"scan {n}.nrrd", image)
        matrix = ijk_to_ras_from_lps((0, 0, 0), (1.0, 1.2, 3.0), np.eye(3).ravel())
        first = 0
        classes = [ball, box]
        if n == 1:
            label = np.choose(label, [0, 2, 1]).astype(np.uint8)
            classes = [replace(box, value=1), replace(ball, value=2, name="liver")]
            first = 1  # without its first slice, which shows the ball perhaps
            label[0] = 0
            matrix = ijk_to_ras_from_lps((0, 0, 3.0), (1.0, 1.2, 3.0), np.eye(3).ravel())
        write_segmentation(tmp_path / f"scan {n}.seg.nrrd", label[first:], matrix, classes)
    return tmp_path


def test_slicer_segmentations(slicer):
    dataset = open_dataset(slicer)
    assert dataset.format == "segmentations from Slicer"
    assert [(c.value, c.name, c.color) for c in dataset.classes] == [
        (1, "Liver", (221, 130, 101)),
        (2, "Box", (0, 128, 255)),
    ]
    assert dataset.classes[0].terminology.type.meaning == "Liver"
    assert dataset.classes[0].terminology.modifier is None
    assert np.array_equal(dataset.read(dataset.cases[0]).label, scene(0)[1])
    expected = scene(1)[1]
    expected[0] = 0
    assert np.array_equal(dataset.read(dataset.cases[1]).label, expected)
    assert said(dataset) == ""
    (slicer / "scan 1.nrrd").unlink()
    with pytest.raises(InputError, match="no volume beside it"):
        open_dataset(slicer)


def test_overlapping_segments_in_layers(tmp_path):
    image, _ = scene(0)
    write_nifti(tmp_path / "a.nrrd", image)
    layers = np.zeros((*image.shape, 2), np.uint8)
    layers[1, :20, :20, 0] = 1
    layers[1, 10:30, 10:30, 1] = 1
    seg = sitk.GetImageFromArray(layers, isVector=True)
    seg.SetSpacing((1.0, 1.2, 3.0))
    for n, name in enumerate(("A", "B")):
        for key, value in (("ID", f"S{n}"), ("Name", name), ("Layer", str(n)), ("LabelValue", "1")):
            seg.SetMetaData(f"Segment{n}_{key}", value)
    sitk.WriteImage(seg, str(tmp_path / "a.seg.nrrd"))
    dataset = open_dataset(tmp_path)
    label = dataset.read(dataset.cases[0]).label
    assert (label == 2).sum() == 400
    assert (label == 1).sum() == 300
    assert "100 voxels of B lie in another segment too" in said(dataset)


def test_findings(tmp_path):
    folder = nnunet(tmp_path / "d", cases=8)
    image, label = scene(0)
    write_nifti(folder / "labelsTr" / "case0.nii.gz", label[:, :-1])
    write_nifti(folder / "labelsTr" / "case1.nii.gz", label, spacing=(1.0, 1.0, 3.0))
    write_nifti(folder / "labelsTr" / "case2.nii.gz", label, origin=(0.0, 5.0, 0.0))
    write_nifti(folder / "labelsTr" / "case3.nii.gz", label + 3 * (label == 1).astype(np.uint8))
    write_nifti(folder / "labelsTr" / "case4.nii.gz", 0 * label)
    write_nifti(folder / "labelsTr" / "case5.nii.gz", label * 0.5)
    write_nifti(folder / "imagesTr" / "case6_0000.nii.gz", 0 * image)
    (folder / "labelsTr" / "case7.nii.gz").unlink()
    text = said(divided(open_dataset(folder), 0.2, 0, 0))
    assert "error case0: Image (40 x 48 x 4) and label (40 x 47 x 4) differ in size" in text
    assert "error case1: Image and label differ in spacing: 1 x 1.2 x 3 and 1 x 1 x 3 mm" in text
    assert "error case2: Image and label lie 5 mm apart" in text
    assert "error case3: Its label holds values that are no class: 4" in text
    assert "warning case4: Its label is empty" in text
    assert "error case5" in text
    assert "not whole numbers" in text
    assert "error case6: Its image is constant" in text
    dataset = open_dataset(folder)
    whole = dataset.with_cases([c for c in dataset.cases if c.id in ("case4",)])
    assert "No case shows the class Ball" in said(whole)


def test_division_by_patients(tmp_path):
    folder = nnunet(tmp_path / "d", cases=1)
    for patient in range(10):
        for visit in range(2):
            (folder / "imagesTr" / f"p{patient}_v{visit}_0000.nii.gz").touch()
            (folder / "labelsTr" / f"p{patient}_v{visit}.nii.gz").touch()
    (folder / "imagesTr" / "case0_0000.nii.gz").unlink()
    dataset = with_patients(open_dataset(folder), "^(p\\d+)_")
    parts = divided(dataset, 0.2, 0.1, seed=3)
    of = {split: {c.patient for c in parts.split(split)} for split in ("train", "validation", "test")}
    assert [len(of[split]) for split in ("train", "validation", "test")] == [7, 2, 1]
    assert not of["train"] & of["validation"] | of["validation"] & of["test"] | of["train"] & of["test"]
    again = divided(dataset, 0.2, 0.1, seed=3)
    assert again.cases == parts.cases
    assert divided(dataset, 0.2, 0.1, seed=4).cases != parts.cases
    with pytest.raises(InputError, match="finds no patient"):
        with_patients(dataset, "^x")


def test_command_line(tmp_path, capsys):
    folder = nnunet(tmp_path / "d")
    assert main(["dataset", "check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "3 cases (3 with labels) of 3 patients" in " ".join(out.split())
    assert "No findings" in out
    write_nifti(folder / "labelsTr" / "case0.nii.gz", scene(0)[1] * 7)
    assert main(["dataset", "check", str(folder)]) == 1
    assert "no class: 7, 14" in " ".join(capsys.readouterr().out.split())
    assert main(["dataset", "check", str(folder), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["classes"][1]["cases"] == 2
    assert document["findings"][0]["level"] == "error"


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        open_dataset(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is empty"):
        open_dataset(tmp_path / "empty")
    (tmp_path / "scan.nii.gz").touch()
    with pytest.raises(InputError, match="is a file, not a data set"):
        open_dataset(tmp_path / "scan.nii.gz")
    with pytest.raises(InputError, match="known layout"):
        open_dataset(tmp_path)


def test_training_sees_the_pixels_that_a_segmenter_sees(tmp_path):
    """The slices of a case, by training's preparation, are the batches that the network gets in `Segmenter`."""
    dataset = open_dataset(nnunet(tmp_path / "d"))
    for mode, resampling in (
        ("best", {"method": "spacing", "pixel": 1.7}),
        ("best", {"method": "stretch", "height": 32, "width": 48, "interpolation": "cubic", "align_corners": True}),
        ("paper", {"method": "stretch", "height": 32, "width": 48}),
    ):
        seen = []

        class Spy(BandNetwork):
            def forward(self, image, seen=seen):
                seen.append(image.clone())
                return super().forward(image)

        bundle = with_network(config(resampling, intensity={"method": "percentile", "low": 0, "high": 99}), Spy())
        Segmenter(bundle, "cpu", mode).segment(read_volume(dataset.cases[0].images[0]))
        sample = dataset.read(dataset.cases[0])
        made = list(
            prepared_slices(
                sample.image, sample.label, sample, bundle.config.preprocessing, (BALL, BOX), paper=mode == "paper"
            )
        )
        assert np.array_equal(torch.cat(seen).numpy(), np.stack([sample.image for sample in made]))
        assert {v for sample in made for v in np.unique(sample.label)} == {0, 1, 2}


def test_a_list_of_test_cases_alone_passes_the_check_as_it_passes_a_run(tmp_path):
    folder = nnunet(tmp_path / "set")
    (folder / "imagesTs").mkdir()
    for image in sorted((folder / "imagesTr").iterdir())[:1]:
        (folder / "imagesTs" / f"test_{image.name}").write_bytes(image.read_bytes())
    assert main(["dataset", "check", str(folder)]) == 0


def test_what_dataset_json_says_and_the_folder_does_not(tmp_path):
    folder = nnunet(tmp_path / "d")
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(content | {"numTraining": 7, "file_ending": ".nrrd"}))
    write_nifti(folder / "labelsTr" / "lost.nii.gz", scene(0)[1])
    text = said(open_dataset(folder))
    assert '"numTraining": 7, and imagesTr holds 3 cases' in text
    assert '"file_ending": ".nrrd", and 6 files end otherwise' in text
    assert "1 labels without an image, such as lost.nii.gz" in text
    assert "error" not in text


def test_what_a_datalist_says_and_does_not_list(tmp_path):
    """The Medical Segmentation Decathlon's dataset.json counts its lists, too."""
    folder = nnunet(tmp_path / "d")
    content = json.loads((folder / "dataset.json").read_text())
    pairs = zip(sorted((folder / "imagesTr").iterdir()), sorted((folder / "labelsTr").iterdir()), strict=True)
    listed = [{"image": f"imagesTr/{image.name}", "label": f"labelsTr/{label.name}"} for image, label in pairs]
    content |= {"numTraining": 9, "training": listed[:2], "test": [listed[2]["image"]]}
    listing = folder / "listing.json"
    listing.write_text(json.dumps(content))
    assert '"numTraining": 9, and lists 2 cases' in said(open_dataset(listing))
    listing.write_text(json.dumps(content | {"numTraining": 2}))
    assert "numTraining" not in said(open_dataset(listing))


def test_labels_that_are_all_empty_are_an_error_before_a_run(tmp_path):
    folder = nnunet(tmp_path / "d")
    for n in range(3):
        write_nifti(folder / "labelsTr" / f"case{n}.nii.gz", 0 * scene(n)[1])
    assert "error : No label shows any class" in said(open_dataset(folder))
    assert main(["dataset", "check", str(folder)]) == 1


def test_what_rounding_explains_is_mended_and_said(tmp_path):
    folder = nnunet(tmp_path / "d", cases=1)
    label = scene(0)[1]
    write_nifti(folder / "labelsTr" / "case0.nii.gz", label * np.float32(1 + 1.2e-7), spacing=(1 + 1e-7, 1.2, 3.0))
    dataset = open_dataset(folder)
    assert np.array_equal(dataset.read(dataset.cases[0]).label, label)
    text = said(dataset)
    assert "warning case0: Its label values are up to 2e-07 off whole numbers" in text
    assert "error" not in text
