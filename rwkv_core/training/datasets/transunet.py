"""The paper's data as others prepared them: Synapse by TransUNet (.npz, .npy.h5), ACDC by WSL4MIS (.h5).

Synapse: ``train_npz/case0005_slice000.npz`` (one slice each) and ``test_vol_h5/case0001.npy.h5`` (one volume each),
with ``image`` and ``label``; intensities are CT clipped to -125 to 275 HU and scaled to 0 to 1; they are given back in
HU, so that a model trained on them fits real CT. Slices, rows, columns run toward superior, left, posterior.

ACDC: ``ACDC_training_slices/patient001_frame01_slice_1.h5`` and ``ACDC_training_volumes/patient001_frame01.h5``, or
``data/slices`` and ``data`` (SSL4MIS); slices in stored order. Patients 1 to 20 are for test, 21 to 30 for validation.

Neither has a spacing: voxels count as 1 mm, as in the paper's figures.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import h5py
import numpy as np

from rwkv_core.bundle.catalogue import load_catalogue
from rwkv_core.errors import InputError
from rwkv_core.training.datasets.description import Case, Dataset, LabelClass, Sample, Split, flat_geometry
from rwkv_core.training.datasets.files import files_in, whole_numbers
from rwkv_core.volume import Array, Matrix

_SYNAPSE_SLICES, _SYNAPSE_VOLUMES = "train_npz", "test_vol_h5"
_ACDC_LAYOUTS = (("ACDC_training_slices", "ACDC_training_volumes"), ("data/slices", "data"), ("slices", "volumes"))
_SLICE = re.compile(r"^(?P<case>.+?)_slice_?(?P<slice>\d+)$")
_ACDC = re.compile(r"^(?P<patient>patient(?P<number>\d+))_")
_LOW_HU, _HIGH_HU = -125.0, 275.0
_ACDC_TEST, _ACDC_VALIDATION = range(1, 21), range(21, 31)


def is_synapse(path: Path) -> bool:
    """Tell whether a folder holds TransUNet's Synapse."""
    return (path / _SYNAPSE_SLICES).is_dir() or (path / _SYNAPSE_VOLUMES).is_dir()


def is_acdc(path: Path) -> bool:
    """Tell whether a folder holds ACDC as .h5 files."""
    return path.is_dir() and any(_acdc_files(path / f) for layout in _ACDC_LAYOUTS for f in layout)


def read_synapse(path: Path) -> Dataset:
    """Read training cases from slices, validation cases (the paper's name for its 12 test volumes) from volumes.

    Raises:
        InputError: when a slice's name does not say where it belongs.
    """
    cases = []
    if (path / _SYNAPSE_SLICES).is_dir():
        cases += _of_slices(files_in(path / _SYNAPSE_SLICES, (".npz",)), "train")
    if (path / _SYNAPSE_VOLUMES).is_dir():
        for file in files_in(path / _SYNAPSE_VOLUMES, (".npy.h5", ".h5")):
            name = file.name.split(".")[0]
            cases.append(Case(name, (file,), file, name, "validation"))
    classes = _classes_of("synapse")
    return Dataset(path, "Synapse, TransUNet's preparation", classes, tuple(cases), _read_synapse, "CT", ("SLP",))


def read_acdc(path: Path) -> Dataset:
    """Read volumes where they are there, else slices put together.

    Raises:
        InputError: when a slice's name does not say where it belongs.
    """
    cases: dict[str, Case] = {}
    for slices, volumes in _ACDC_LAYOUTS:
        for case in _of_slices(_acdc_files(path / slices), None):
            if _SLICE.match(case.images[0].stem):
                cases.setdefault(case.id, case)
        for file in _acdc_files(path / volumes):
            if not _SLICE.match(file.stem):
                cases[file.stem] = Case(file.stem, (file,), file, file.stem)
    with_splits = [Case(c.id, c.images, c.label, *_acdc_split(c.id)) for c in cases.values()]
    classes = _classes_of("acdc")
    return Dataset(path, "ACDC, .h5", classes, tuple(with_splits), _read_acdc, "MR", ("stored",))


def _classes_of(family: str) -> tuple[LabelClass, ...]:
    classes = load_catalogue().families[family].classes
    return tuple(LabelClass(c.value, c.name, c.color, c.terminology) for c in classes)


def _acdc_files(folder: Path) -> list[Path]:
    return [f for f in files_in(folder, (".h5",)) if _ACDC.match(f.name)] if folder.is_dir() else []


def _acdc_split(name: str) -> tuple[str, Split]:
    match = _ACDC.match(name)
    assert match
    number = int(match["number"])
    split: Split = "test" if number in _ACDC_TEST else "validation" if number in _ACDC_VALIDATION else "train"
    return match["patient"], split


def _of_slices(files: Iterable[Path], split: Split | None) -> list[Case]:
    groups: dict[str, list[tuple[int, Path]]] = {}
    for file in files:
        match = _SLICE.match(file.stem)
        if match is None:
            if split is None:  # a volume among slices
                continue
            raise InputError(f"{file}: its name does not say case and slice.", hint="Expected: case0005_slice000.npz.")
        groups.setdefault(match["case"], []).append((int(match["slice"]), file))
    found = []
    for name, numbered in groups.items():
        ordered = tuple(file for _, file in sorted(numbered))
        found.append(Case(name, ordered, ordered[0], name, split))
    return found


def _read_synapse(case: Case) -> Sample:
    image, label = _arrays(case)
    if image.min() < -0.01 or image.max() > 1.01:
        raise InputError(
            f"{case.images[0]} holds intensities from {image.min():g} to {image.max():g}; TransUNet's lie in 0 to 1.",
            hint="Give CT in Hounsfield units as NIfTI, in a folder of image and label pairs.",
        )
    return Sample(_LOW_HU + image[None] * (_HIGH_HU - _LOW_HU), label, _slp(), spacing_known=False)


def _read_acdc(case: Case) -> Sample:
    image, label = _arrays(case)
    return Sample(image[None], label, flat_geometry(), spacing_known=False)


def _slp() -> Matrix:
    """I (columns) toward posterior, J (rows) toward left, K (slices) toward superior, 1 mm."""
    return np.array([[0.0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def _arrays(case: Case) -> tuple[Array, Array]:
    """Image float32 and label, (K, J, I)."""
    pairs = [_read_file(file) for file in case.images]
    if len({image.shape for image, _ in pairs}) > 1:
        raise InputError(f"{case.id}: its slices differ in size.")
    image, label = (
        np.stack(list(parts)) if len(pairs) > 1 else next(iter(parts)) for parts in zip(*pairs, strict=True)
    )
    if image.ndim == 2:
        image, label = image[None], label[None]
    if image.ndim != 3 or image.shape != label.shape:
        raise InputError(f"{case.images[0]}: image {image.shape} and label {label.shape} do not belong together.")
    return image.astype(np.float32), whole_numbers(label, case.images[0])


def _read_file(file: Path) -> tuple[Array, Array]:
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as content:
                return content["image"], content["label"]
        with h5py.File(file) as content:
            return content["image"][()], content["label"][()]
    except KeyError:
        raise InputError(f"{file} holds no `image` and `label`.") from None
    except Exception as error:  # damaged archives fail in many ways
        raise InputError(f"{file} cannot be read: {error}.", hint="Copy it again; it may be damaged.") from None
