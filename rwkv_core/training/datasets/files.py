"""Images and labels of one file each: volumes (NIfTI, NRRD, MetaImage), pictures (PNG and the like), HDF5, .npz."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from rwkv_core.errors import InputError
from rwkv_core.training.datasets.description import Case, LabelClass, Sample, classes_of_values, flat_geometry
from rwkv_core.volume import INPUT_EXTENSIONS, Array, Matrix, read_volume

PICTURE_EXTENSIONS = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
_LOSSY = (".jpg", ".jpeg")
_ROUNDING = 1e-3
"""Distance from a whole number that the storing and scaling of label values explains."""

_MOST_VALUES = 256
"""Different values beyond which an image is taken for anything but a label."""

_AGAIN = "The file may be damaged or incomplete: copy it again, or convert it again from its source."


def stem_of(path: Path) -> str:
    """Give the name without its extension, ".nii.gz" included."""
    lower = path.name.lower()
    for extension in (".seg.nrrd", *sorted((*INPUT_EXTENSIONS, *PICTURE_EXTENSIONS), key=len, reverse=True)):
        if lower.endswith(extension):
            return path.name[: -len(extension)]
    return path.stem


def is_picture(path: Path) -> bool:
    """Tell whether a file is a 2-D image by its name."""
    return path.name.lower().endswith(PICTURE_EXTENSIONS)


def files_in(folder: Path, extensions: Sequence[str]) -> list[Path]:
    """List the files of a folder with one of these extensions (lower case), in the order in which people count.

    Raises:
        InputError: when the folder cannot be read.
    """
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_file()]
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read: {error.strerror}.", hint="Check the path.") from None
    return sorted((e for e in entries if e.name.lower().endswith(tuple(extensions))), key=natural_order)


def natural_order(path: Path) -> list[tuple[int, str]]:
    """Give a key that sorts "slice 2" before "slice 10"."""
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in re.split(r"(\d+)", path.name)]


def read_image(path: Path) -> tuple[Array, Matrix, bool]:
    """Read (C, K, J, I), IJK to RAS, and whether the file knows millimetres.

    Raises:
        InputError: when there is no such file, or it is no image of one or three channels.
    """
    if not is_picture(path):
        volume = read_volume(path)
        return volume.array[None], volume.ijk_to_ras, True
    pixels = _pixels(path)
    if pixels.ndim == 2:
        return pixels[None, None], flat_geometry(), False
    if pixels.shape[2] == 2 or (
        np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2])
    ):  # grey, saved as RGB
        return pixels[None, None, ..., 0], flat_geometry(), False
    return np.moveaxis(pixels[..., :3], 2, 0)[:, None], flat_geometry(), False


def read_label(path: Path, problems: list[str] | None = None) -> tuple[Array, Matrix]:
    """Read (K, J, I) integers, and IJK to RAS.

    Args:
        problems: gets sentences about what was mended.

    Raises:
        InputError: when the file is no label image: real numbers, negative values, or colours.
    """
    if path.name.lower().endswith(_LOSSY):
        raise InputError(f"{path} is a JPEG: its compression changes label values.", hint="Save masks as PNG.")
    if is_picture(path):
        pixels = _pixels(path, palette=True)
        if pixels.ndim == 3:
            if not all(np.array_equal(pixels[..., 0], pixels[..., n]) for n in range(1, min(pixels.shape[2], 3))):
                raise InputError(
                    f"{path} is a color image, not a mask of label values.",
                    hint="Save masks with one channel, in which every class has a value of its own.",
                )
            pixels = pixels[..., 0]
        return pixels[None], flat_geometry()
    volume = read_volume(path)
    return whole_numbers(volume.array, path, problems), volume.ijk_to_ras


def whole_numbers(array: Array, path: Path, problems: list[str] | None = None) -> Array:
    """Label values as integers; many tools store them as real numbers, and some scale them on the way.

    Args:
        problems: gets a sentence where values are next to whole numbers, and were rounded.

    Raises:
        InputError: when values are not whole, or negative.
    """
    if array.dtype.kind == "f":
        rounded = np.rint(array)
        off = float(np.abs(rounded - array).max()) if array.size else 0.0
        if not off <= _ROUNDING:
            raise InputError(
                f"{path} holds values that are not whole numbers: it is an image or probabilities, not labels.",
                hint="Check that image and label were not swapped, and that labels were resampled with nearest.",
            )
        if off and problems is not None:
            problems.append(f"Its label values are up to {off:.1g} off whole numbers (1.0000001, say): rounded.")
        array = rounded.astype(np.int32)
    if array.size and array.min() < 0:
        raise InputError(f"{path} holds negative label values.", hint="Labels are 0 for background, then 1, 2, ...")
    return array


def values_of(labels: Iterable[Path]) -> tuple[int, ...]:
    """Give all label values in some files, sorted.

    Raises:
        InputError: see `read_label`; when a file holds so many values that it cannot be a label.
    """
    found: set[int] = set()
    for path in labels:
        values = np.unique(read_label(path)[0]).tolist()
        if len(values) > _MOST_VALUES:
            raise InputError(
                f"{path} holds {len(values)} different values: it is an image, not a label.",
                hint="Check that image and label were not swapped.",
            )
        found.update(values)
    return tuple(sorted(found))


def read_pair(case: Case) -> Sample:
    """Give a case whose image and label are one file each, or whose image is one file per channel (three make RGB).

    Raises:
        InputError: see `read_image` and `read_label`; when the channels differ in size.
    """
    image, ijk_to_ras, spacing_known = read_image(case.images[0])
    if len(case.images) > 1:
        channels = [image, *(read_image(path)[0] for path in case.images[1:])]
        shapes = {channel.shape for channel in channels}
        if len(shapes) > 1:
            raise InputError(f"{case.id}: its {len(channels)} channel files differ in size.")
        image = np.concatenate(channels)
    if case.label is None:
        return Sample(image, None, ijk_to_ras, spacing_known=spacing_known)
    problems: list[str] = []
    label, label_to_ras = read_label(case.label, problems)
    if not spacing_known:
        label_to_ras = ijk_to_ras
    return Sample(image, label, ijk_to_ras, label_to_ras, spacing_known, tuple(problems))


def found_classes(cases: Iterable[Case]) -> tuple[LabelClass, ...]:
    """Find the classes of a data set that does not name them, from the values in its label files."""
    return classes_of_values(values_of(case.label for case in cases if case.label is not None))


def _pixels(path: Path, palette: bool = False) -> Array:
    """(J, I) or (J, I, channels); `palette`: a palette image's indices rather than its colours."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGB") if file.mode == "P" and not palette else file
            return np.asarray(image).astype(np.uint8) if image.mode == "1" else np.asarray(image)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.", hint="Check the path.") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}.", hint=_AGAIN) from None
