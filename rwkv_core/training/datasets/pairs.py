"""A folder of images and labels, paired by name: volumes, or 2-D images with masks.

Layouts, each also inside folders named train, validation (or val) and test, which then are the splits:

- ``images/`` and ``labels/`` (or ``masks/``) with files of equal names (a suffix such as ``_mask`` is allowed);
- ``images/`` and ``masks/0/``, ``masks/1/``, ...: one binary mask per class;
- all in one folder, the label named after its image: ``a.nii.gz``, ``a_seg.nii.gz`` (or _label, _mask, _gt).

Names of classes may stand in ``labels.json``: ``{"1": "Liver", "2": "Spleen"}``.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from rwkv_core.errors import InputError
from rwkv_core.files import read_json
from rwkv_core.training.datasets.description import (
    SPLIT_OF_FOLDER,
    Case,
    Dataset,
    LabelClass,
    Sample,
    Split,
    classes_of_values,
)
from rwkv_core.training.datasets.files import (
    PICTURE_EXTENSIONS,
    files_in,
    is_picture,
    read_label,
    read_pair,
    stem_of,
    values_of,
)
from rwkv_core.volume import INPUT_EXTENSIONS

NAMES_FILE = "labels.json"
_IMAGE_FOLDERS = ("images", "image", "imgs", "img")
_LABEL_FOLDERS = ("labels", "label", "masks", "mask", "segmentations", "annotations", "gt")
_SUFFIX = re.compile(r"[ _-](seg|segmentation|label|labels|labelmap|mask|gt)$", re.IGNORECASE)
_NUMBERED_SUFFIX = re.compile(r"[ _-]mask_\d+$", re.IGNORECASE)
_EXTENSIONS = (*INPUT_EXTENSIONS, *PICTURE_EXTENSIONS)


def is_pairs(path: Path) -> bool:
    """Tell whether a folder looks like this."""
    return path.is_dir() and any(_looks_like(folder) for folder, _ in _parts(path))


def read_pairs(path: Path) -> Dataset:
    """Read the data set in a folder.

    Raises:
        InputError: when it holds no image with a label; when two files claim the same place.
    """
    cases: list[Case] = []
    per_class = False
    for folder, split in _parts(path):
        images, labels = _side_by_side(folder) if _subfolder(folder, _IMAGE_FOLDERS) else _in_one(folder)
        prefix = f"{split}-" if split else ""
        label_folder = _subfolder(folder, _LABEL_FOLDERS)
        numbered = _numbered(label_folder) if label_folder else []
        for image in images:
            label = labels.get(stem_of(image))
            if label is None and numbered:
                label, per_class = _first(numbered, stem_of(image)), True
            cases.append(Case(prefix + stem_of(image), (image,), label, stem_of(image), split))
    if not any(case.label for case in cases):
        raise InputError(
            f"{path} holds {len(cases)} images and no label that belongs to one of them.",
            hint="Put labels in a folder `labels` under the images' names, or beside them as NAME_seg or NAME_mask.",
        )
    cases = _unique(cases)
    pictures = all(is_picture(case.images[0]) for case in cases)
    what = "2-D images with masks" if pictures else "folder of image and label pairs"
    if per_class:
        classes = _named(path, range(1, 1 + _count_numbered(cases)))
        return Dataset(path, f"{what}, one mask per class", classes, tuple(cases), _read_masks_per_class)
    values = values_of(case.label for case in cases if case.label)
    if pictures and len(values) == 2 and values[0] == 0 and not (path / NAMES_FILE).exists():
        classes = (LabelClass(1, "Foreground"),)
        return Dataset(path, what, classes, tuple(cases), _read_binary)
    return Dataset(path, what, _named(path, values), tuple(cases), read_pair)


def names_in(path: Path) -> dict[int, str]:
    """Label values to names, from a JSON file.

    Raises:
        InputError: when it is something else.
    """
    try:
        content = read_json(path)
        return {int(value): str(name) for value, name in content.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} does not name labels: {error}.", hint='Write {"1": "Liver", "2": "Spleen"}, without background.'
        ) from None


def _parts(path: Path) -> list[tuple[Path, Split | None]]:
    """Give the folder itself, or its folders for the splits."""
    found: list[tuple[Path, Split | None]] = []
    for child in sorted(path.iterdir()):
        if child.is_dir() and (split := SPLIT_OF_FOLDER.get(child.name.lower())):
            found.append((child, split))
    return found or [(path, None)]


def _looks_like(folder: Path) -> bool:
    if _subfolder(folder, _IMAGE_FOLDERS) and _subfolder(folder, _LABEL_FOLDERS):
        return True
    return bool(_in_one(folder)[1])


def _subfolder(folder: Path, names: tuple[str, ...]) -> Path | None:
    children = {child.name.lower(): child for child in folder.iterdir() if child.is_dir()}
    return next((children[name] for name in names if name in children), None)


def _side_by_side(folder: Path) -> tuple[list[Path], dict[str, Path]]:
    image_folder, label_folder = _subfolder(folder, _IMAGE_FOLDERS), _subfolder(folder, _LABEL_FOLDERS)
    if image_folder is None or label_folder is None:
        missing = "labels" if image_folder else "images"
        raise InputError(f"{folder} has no folder `{missing}`.", hint=f"Add it, or rename the folder of the {missing}.")
    images = files_in(image_folder, _EXTENSIONS)
    labels = {}
    for path in files_in(label_folder, _EXTENSIONS):
        labels[stem_of(path)] = path
        labels.setdefault(_SUFFIX.sub("", stem_of(path)), path)
    return images, labels


def _in_one(folder: Path) -> tuple[list[Path], dict[str, Path]]:
    images, labels = [], {}
    for path in files_in(folder, _EXTENSIONS):
        stem = stem_of(path)
        if path.name.lower().endswith(".seg.nrrd") or _NUMBERED_SUFFIX.search(stem):
            continue
        if _SUFFIX.search(stem):
            labels[_SUFFIX.sub("", stem)] = path
        else:
            images.append(path)
    stems = {stem_of(image) for image in images}
    return images, {stem: path for stem, path in labels.items() if stem in stems}


def _numbered(folder: Path) -> list[Path]:
    """Folders "0", "1", ... of one mask per class."""
    return sorted((c for c in folder.iterdir() if c.is_dir() and c.name.isdecimal()), key=lambda c: int(c.name))


def _first(numbered: Iterable[Path], stem: str) -> Path | None:
    for folder in numbered:
        for path in files_in(folder, PICTURE_EXTENSIONS):
            if stem_of(path) == stem or _SUFFIX.sub("", stem_of(path)) == stem:
                return path
    return None


def _count_numbered(cases: Iterable[Case]) -> int:
    return max(len(_numbered(case.label.parent.parent)) for case in cases if case.label)


def _read_masks_per_class(case: Case) -> Sample:
    """Give the masks of all classes; where they overlap, the later class counts."""
    sample = read_pair(replace(case, label=None))
    if case.label is None:
        return sample
    label = np.zeros(sample.image.shape[1:], np.uint8)
    for n, folder in enumerate(_numbered(case.label.parent.parent), 1):
        path = folder / case.label.name
        if path.exists():
            mask = read_label(path)[0]
            if mask.shape != label.shape:
                return replace(sample, label=mask, label_ijk_to_ras=sample.ijk_to_ras)
            label[mask > 0] = n
    return replace(sample, label=label, label_ijk_to_ras=sample.ijk_to_ras)


def _read_binary(case: Case) -> Sample:
    sample = read_pair(case)
    return sample if sample.label is None else replace(sample, label=(sample.label > 0).astype(np.uint8))


def _named(path: Path, values: Iterable[int]) -> tuple[LabelClass, ...]:
    if not (path / NAMES_FILE).exists():
        return classes_of_values(values)
    names = names_in(path / NAMES_FILE)
    return tuple(LabelClass(value, names[value]) for value in sorted(names) if value != 0)


def _unique(cases: list[Case]) -> list[Case]:
    ids = [case.id for case in cases]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise InputError(
            f"Two images have one name, differing only in their extension: {', '.join(twice[:5])}.",
            hint="Keep one file per image.",
        )
    return cases
