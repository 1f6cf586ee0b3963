"""Small data sets in every layout, made here: a bright ball and a brighter box in noise."""

import json

import numpy as np
import SimpleITK as sitk
from PIL import Image

BALL, BOX = 1, 2


def scene(seed, shape=(4, 48, 40)):
    """Image float32 and label uint8, (K, J, I); the ball and the box move with the seed."""
    random = np.random.default_rng(seed)
    k, j, i = np.indices(shape)
    size = np.array(shape)
    centre = (size - 1) * random.uniform(0.4, 0.6, 3)
    ball = sum(((index - c) / s) ** 2 for index, c, s in zip((k, j, i), centre, size, strict=True)) < 0.04
    label = np.where(ball, BALL, 0).astype(np.uint8)
    top, left = random.integers(2, 8, 2)
    label[shape[0] // 4 :, top : top + 10, left : left + 12] = BOX
    image = 100.0 * label + random.normal(0, 10, shape)
    return image.astype(np.float32), label


def write_nifti(path, array, spacing=(1.0, 1.2, 3.0), origin=(0.0, 0.0, 0.0)):
    """A (K, J, I) array as a file."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def nnunet(folder, cases=3, names=("Ball", "Box")):
    """nnU-Net raw, version 2."""
    for n in range(cases):
        image, label = scene(n)
        write_nifti(folder / "imagesTr" / f"case{n}_0000.nii.gz", image)
        write_nifti(folder / "labelsTr" / f"case{n}.nii.gz", label)
    labels = {"background": 0} | {name: n for n, name in enumerate(names, 1)}
    content = {"channel_names": {"0": "T1"}, "labels": labels, "numTraining": cases, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def pictures(folder, cases=6, rgb=True, size=(40, 48)):
    """RGB PNG images with binary masks of 0 and 255."""
    for n in range(cases):
        image, label = scene(n, (1, *size))
        grey = np.clip(image[0], 0, 255).astype(np.uint8)
        pixels = np.stack([grey, grey // 2, 255 - grey], -1) if rgb else grey
        for kind, array in (("images", pixels), ("masks", np.where(label[0] == BOX, 255, 0).astype(np.uint8))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / kind / f"picture {n}.png")
    return folder
