"""Segmentations exported from Slicer scenes: ``NAME.seg.nrrd`` next to its volume, ``NAME.nrrd`` (or .nii.gz, .mha).

Segments are matched across cases by name. Names, colours and terminology come from the headers. A segmentation whose
grid is not its volume's (Slicer may crop it, or keep the geometry of another volume) is brought onto the volume's.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from rwkv_core.errors import InputError
from rwkv_core.training.datasets.description import SPLIT_OF_FOLDER, Case, Dataset, LabelClass, Sample
from rwkv_core.training.datasets.files import files_in, read_image, stem_of
from rwkv_core.vocabulary import Code, Terminology
from rwkv_core.volume import INPUT_EXTENSIONS, Array, Matrix, ijk_to_ras_from_lps
from rwkv_core.volume.itk import quiet_itk, readable_by_itk, reason_of

_SEGMENTATION = ".seg.nrrd"
_VOLUME_ENDINGS = re.compile(r"[ _-](seg|segmentation|label)$|-segmentation$", re.IGNORECASE)
_SAME_GRID = 1e-3  # mm, and cosine


@dataclass(frozen=True)
class Segment:
    """One segment as a header describes it.

    Attributes:
        layer, value: where it is drawn: voxels of this layer with this label value.
    """

    name: str
    layer: int
    value: int
    color: tuple[int, int, int] | None
    terminology: Terminology | None


def is_slicer_export(path: Path) -> bool:
    """Tell whether a folder holds segmentations beside their volumes."""
    return path.is_dir() and any(_segmentations(folder) for folder in _folders(path))


def read_slicer_export(path: Path) -> Dataset:
    """Read the data set in a folder, or in its folders named train, validation and test, or in one folder per case.

    Raises:
        InputError: when a segmentation has no volume, or is damaged.
    """
    cases: list[Case] = []
    classes: dict[str, LabelClass] = {}
    for folder in _folders(path):
        split = SPLIT_OF_FOLDER.get(folder.name.lower())
        volumes = [f for f in files_in(folder, INPUT_EXTENSIONS) if not f.name.lower().endswith(_SEGMENTATION)]
        for file in _segmentations(folder):
            name = stem_of(file)
            volume = _volume_of(name, volumes, file)
            own = name if folder == path or split else f"{folder.name}-{name}"
            cases.append(Case(own, (volume,), file, own, split))
            for segment in segments_of(_header(file), file):
                key = segment.name.casefold()
                if key not in classes:
                    classes[key] = LabelClass(len(classes) + 1, segment.name, segment.color, segment.terminology)
    numbers = {key: segment_class.value for key, segment_class in classes.items()}
    return Dataset(
        path, "segmentations from Slicer", tuple(classes.values()), tuple(cases), partial(_read_case, numbers=numbers)
    )


def segments_of(header: dict[str, str], file: Path) -> list[Segment]:
    """Give the segments in the header of a .seg.nrrd, in its order.

    Raises:
        InputError: when there are none, or two have one name.
    """
    found = []
    n = 0
    while f"Segment{n}_ID" in header or f"Segment{n}_Name" in header:
        prefix = f"Segment{n}_"
        name = " ".join((header.get(prefix + "Name") or header[prefix + "ID"]).split())
        color = None
        if parts := header.get(prefix + "Color", "").split():
            red, green, blue = (max(0, min(255, round(255 * float(part)))) for part in parts[:3])
            color = (red, green, blue)
        found.append(
            Segment(
                name,
                int(header.get(prefix + "Layer", "0")),
                int(header.get(prefix + "LabelValue", str(n + 1))),
                color,
                terminology_of(header.get(prefix + "Tags", "")),
            )
        )
        n += 1
    if not found:
        raise InputError(f"{file} describes no segment.", hint="Save the segmentation from Slicer as .seg.nrrd again.")
    names = [segment.name.casefold() for segment in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"{file} has several segments of one name: {', '.join(twice)}.",
            hint="Rename them in Slicer's Segment Editor.",
        )
    return found


def terminology_of(tags: str) -> Terminology | None:
    """Read the terminology from a segment's tags; None where there is no entry of category and type."""
    match = re.search(r"(?:^|\|)TerminologyEntry:([^|]*)", tags)
    if match is None:
        return None
    fields = match[1].split("~")
    codes = [_code(text) for text in fields[1:4]] if len(fields) >= 4 else []
    if len(codes) < 3 or codes[0] is None or codes[1] is None:
        return None
    return Terminology(category=codes[0], type=codes[1], modifier=codes[2])


def _code(text: str) -> Code | None:
    parts = text.split("^")
    return Code(scheme=parts[0], value=parts[1], meaning=parts[2]) if len(parts) == 3 and all(parts) else None


def _folders(path: Path) -> list[Path]:
    return [path, *sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))]


def _segmentations(folder: Path) -> list[Path]:
    return files_in(folder, (_SEGMENTATION,))


def _volume_of(name: str, volumes: Iterable[Path], file: Path) -> Path:
    """Give the volume that a segmentation belongs to, by name; else the only one in the folder."""
    volumes = list(volumes)
    by_name = {stem_of(volume).casefold(): volume for volume in volumes}
    for candidate in (name, _VOLUME_ENDINGS.sub("", name)):
        if candidate.casefold() in by_name:
            return by_name[candidate.casefold()]
    if len(volumes) == 1 and len(_segmentations(file.parent)) == 1:
        return volumes[0]
    raise InputError(
        f"{file} has no volume beside it: none of the {len(volumes)} volumes is named {_VOLUME_ENDINGS.sub('', name)}.",
        hint="Save the volume under the segmentation's name, or as NAME for a segmentation NAME_seg.",
    )


def _header(file: Path) -> dict[str, str]:
    reader = sitk.ImageFileReader()
    try:
        with quiet_itk(), readable_by_itk(file) as text:
            reader.SetFileName(text)
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{file} cannot be read: {reason_of(error)}.") from None
    return {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}


def _read_case(case: Case, numbers: dict[str, int]) -> Sample:
    image, ijk_to_ras, known = read_image(case.images[0])
    assert case.label is not None
    try:
        with quiet_itk(), readable_by_itk(case.label) as text:
            stored = sitk.ReadImage(text)
    except RuntimeError as error:
        raise InputError(f"{case.label} cannot be read: {reason_of(error)}.") from None
    header = {key: stored.GetMetaData(key) for key in stored.GetMetaDataKeys()}
    layers = sitk.GetArrayFromImage(stored)  # (K, J, I), or (K, J, I, layers)
    layers = layers[..., None] if layers.ndim == 3 else layers
    own_to_ras = ijk_to_ras_from_lps(stored.GetOrigin(), stored.GetSpacing(), stored.GetDirection())
    label = np.zeros(layers.shape[:3], np.uint16)
    problems = []
    for segment in segments_of(header, case.label):
        if segment.layer >= layers.shape[3]:
            raise InputError(f"{case.label}: the segment {segment.name} lies in a layer that the file does not have.")
        inside = layers[..., segment.layer] == segment.value
        overlap = int(np.count_nonzero(label[inside]))
        if overlap:
            problems.append(f"{overlap} voxels of {segment.name} lie in another segment too; {segment.name} counts.")
        label[inside] = numbers[segment.name.casefold()]
    if not _same_grid(own_to_ras, label.shape, ijk_to_ras, image.shape[1:]):
        drawn = int(np.count_nonzero(label)) * abs(np.linalg.det(own_to_ras[:3, :3]))
        label = _onto(label, own_to_ras, ijk_to_ras, image.shape[1:])
        left = int(np.count_nonzero(label)) * abs(np.linalg.det(ijk_to_ras[:3, :3]))
        if drawn and left < 0.9 * drawn:
            problems.append(
                f"{100 - 100 * left / drawn:.0f} % of the segmentation lie outside the volume, or vanish on its grid."
            )
    return Sample(image, label, ijk_to_ras, ijk_to_ras, known, tuple(problems))


def _same_grid(first: Matrix, first_shape: tuple[int, ...], other: Matrix, other_shape: tuple[int, ...]) -> bool:
    return first_shape == other_shape and bool(np.allclose(first, other, atol=_SAME_GRID))


def _onto(label: Array, label_to_ras: Matrix, ijk_to_ras: Matrix, shape: tuple[int, ...]) -> Array:
    """Give the label of the nearest voxel, on another grid; 0 outside. One slice at a time."""
    to_label = np.linalg.inv(label_to_ras) @ ijk_to_ras
    result = np.zeros(shape, label.dtype)
    j, i = np.indices(shape[1:])
    limits = np.array(label.shape[::-1])
    for k in range(shape[0]):
        points = np.stack([i, j, np.full_like(i, k)], -1) @ to_label[:3, :3].T + to_label[:3, 3]
        nearest = np.rint(points).astype(np.int64)
        inside = np.all((nearest >= 0) & (nearest < limits), axis=-1)
        x, y, z = np.moveaxis(np.where(inside[..., None], nearest, 0), -1, 0)
        result[k] = np.where(inside, label[z, y, x], 0)
    return result
