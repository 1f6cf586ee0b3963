"""A data set for training, whatever its format: cases with image, label, patient and split, and what the labels mean.

Every reader (one file per format) gives a `Dataset`; nothing after it knows where the files came from.
"""

import colorsys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from rwkv_core.vocabulary import SegmentClass, Terminology
from rwkv_core.volume import Array, Matrix, spacing_of

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

SPLIT_OF_FOLDER: dict[str, Split] = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Names of folders and lists (lower case) that say which split their cases belong to."""

_GOLDEN = 0.618033988749895


@dataclass(frozen=True)
class LabelClass:
    """What one label value means.

    Attributes:
        value: in the label images.
        color: red, green, blue, each 0 to 255; None where the data set has none.
    """

    value: int
    name: str
    color: tuple[int, int, int] | None = None
    terminology: Terminology | None = None


@dataclass(frozen=True)
class Case:
    """One image with its label: a volume, a 2-D image, or the slices of a volume in files of their own.

    Attributes:
        id: unique in the data set.
        images: files of the image: one; one per channel (nnU-Net); or one per slice (TransUNet's lists).
        label: file of the label; None for an unlabelled case. Formats that keep both in one file name it twice.
        patient: cases of one patient must lie in one split.
        split: None where the data set does not say.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str
    split: Split | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """The voxels of a case.

    Attributes:
        image: (C, K, J, I); C is 1, or 3 for RGB. A 2-D image has K = 1.
        label: (K, J, I) integers, values of `Dataset.classes` and 0; None for an unlabelled case.
        ijk_to_ras: 4 x 4, of the image.
        label_ijk_to_ras: 4 x 4, of the label as its file says; None where label and image share one file.
        spacing_known: False where the file has no millimetres (PNG, .npz, .h5); voxels then count as 1 mm.
        problems: sentences about this case that the reader has to say.
    """

    image: Array
    label: Array | None
    ijk_to_ras: Matrix
    label_ijk_to_ras: Matrix | None = None
    spacing_known: bool = True
    problems: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of voxel centres along I, J, K in mm."""
        return spacing_of(self.ijk_to_ras)


@dataclass(frozen=True)
class Dataset:
    """A data set as its reader understood it.

    Attributes:
        format: of its files, in words.
        classes: of the labels, in the order of the network's channels; background (0) is not among them.
        read: the voxels of one of its cases. Raises InputError where a file is missing, damaged, or no such image.
        modality: "CT", "MR", or "any" where it is not known.
        orientations: as in `Preprocessing.orientations`, where the data set's arrays have an order of their own.
        notes: sentences that a person should read.
    """

    path: Path
    format: str
    classes: tuple[LabelClass, ...]
    cases: tuple[Case, ...]
    read: Callable[[Case], Sample] = field(repr=False)
    modality: Literal["CT", "MR", "any"] = "any"
    orientations: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def split(self, name: Split) -> tuple[Case, ...]:
        """Give the cases of one split."""
        return tuple(case for case in self.cases if case.split == name)

    def with_cases(self, cases: Iterable[Case]) -> "Dataset":
        return replace(self, cases=tuple(cases))

    def segment_classes(self) -> tuple[SegmentClass, ...]:
        """Give the classes as a bundle describes them; one without a colour gets one that differs from its neighbours'.

        Values are those of the labels where they fit a bundle (1 to 65535), which readers see to.
        """
        return tuple(
            SegmentClass(
                value=label_class.value,
                name=label_class.name,
                color=label_class.color or distinct_color(n),
                terminology=label_class.terminology,
            )
            for n, label_class in enumerate(self.classes)
        )


def distinct_color(n: int) -> tuple[int, int, int]:
    """Give the n-th of endlessly many colours, each far from those before it."""
    red, green, blue = colorsys.hsv_to_rgb((0.08 + n * _GOLDEN) % 1, 0.65 + 0.3 * (n % 2), 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def classes_of_values(values: Iterable[int]) -> tuple[LabelClass, ...]:
    """Make classes for a data set that does not name them; value 0 is background."""
    return tuple(LabelClass(value, f"Class {value}") for value in sorted(set(values) - {0}))


def flat_geometry() -> Matrix:
    """Give IJK to RAS of an image without a place in a patient: I toward left, J to posterior, K to superior."""
    return np.diag([-1.0, -1.0, 1.0, 1.0])
