"""Segmentations of the scene as a data set on disk: NAME.seg.nrrd beside its volume NAME.nrrd, for `rwkv-unet train`.

Slicer's own export brings every segment onto the grid of the volume that it was drawn on, also where both are moved by
different linear transforms; the files lie in the volume's own space. Nothing of the scene is changed.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Collection, Generator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from rwkv_core.errors import InputError, StorageError
from rwkv_core.files import STORAGE_HINT
from RWKVUNetSegmentLib.Scene import InputVolume as Volumes
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume

COLLECTION = "collection.json"
"""Name of the file that joins scene and folder; see rwkv_core.training.datasets.collection."""

_TURN_BYTES = 1 << 23
_FORBIDDEN = re.compile(r'[.\\/:*?"<>|\x00-\x1f]')
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def volumeOf(segmentation: Any) -> Any:
    """Give the volume that a segmentation was drawn on; None where it has none."""
    return segmentation.GetNodeReference(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())


def classNames(segmentations: Sequence[Any]) -> list[str]:
    """Give the names of all their segments, in order of appearance; names that differ in case or blanks are one."""
    found: dict[str, str] = {}
    for node in segmentations:
        for segment in _segments(node):
            found.setdefault(_key(segment.GetName()), " ".join(segment.GetName().split()))
    return list(found.values())


def isValid(segmentation: Any) -> tuple[bool, str]:
    """Tell whether a segmentation can be learned from, and else a sentence that says why not."""
    name = segmentation.GetName()
    segments = _segments(segmentation)
    if not segments:
        return False, _("{name} has no segments.").format(name=name)
    keys = [_key(segment.GetName()) for segment in segments]
    if twice := next((segment.GetName() for segment in segments if keys.count(_key(segment.GetName())) > 1), None):
        return False, _("{name} has several segments named {segment}. Rename them.").format(name=name, segment=twice)
    volume = volumeOf(segmentation)
    if volume is None:
        return False, _("{name} has no volume. Choose its source volume in the Segment Editor.").format(name=name)
    valid, reason = Volumes.isValid(volume)
    if not valid:
        return False, reason
    transform = segmentation.GetParentTransformNode()
    if transform is not None and not transform.IsTransformToWorldLinear():
        return False, _(
            "{name} is under the transform {transform}, which bends it. Harden the transform, then try again."
        ).format(name=name, transform=transform.GetName())
    return True, ""


def problemOf(segmentations: Sequence[Any]) -> str:
    """Say why these cannot be learned from together; empty when they can."""
    drawn: dict[str, str] = {}
    for node in segmentations:
        valid, reason = isValid(node)
        if not valid:
            return reason
        volume = volumeOf(node)
        if volume.GetID() in drawn:
            return _("{one} and {other} are drawn on the same volume, {volume}. Choose one of them.").format(
                one=drawn[volume.GetID()], other=node.GetName(), volume=volume.GetName()
            )
        drawn[volume.GetID()] = node.GetName()
    return ""


def exportData(
    segmentations: Sequence[Any], classes: Collection[str] | None, folder: str, target: Path
) -> Generator[str, None, tuple[Path, list[str]]]:
    """Write the data set that a run learns from; to be advanced once per turn of the event loop, yields what it does.

    Args:
        segmentations: nodes that `problemOf` finds nothing against; may be none.
        classes: names of those to learn; None for all.
        folder: a further data set, in any layout; empty for none.
        target: new folder to be made; it appears when all is written.

    Returns:
        What `rwkv-unet train` takes, and sentences about what was lost (overlaps).

    Raises:
        InputError: when a segmentation shows none of the classes, or has changed so that it cannot be used.
        StorageError: when the files cannot be written; nothing is left then.
    """
    if target.exists():
        raise InputError(_("{folder} exists already.").format(folder=target), _("Choose another name."))
    warnings: list[str] = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".rwkv-unet-") as name:
            new = Path(name) / target.name
            new.mkdir()
            scene = new / "scene"
            for case, node in zip(_caseNames(segmentations), segmentations, strict=True):
                scene.mkdir(exist_ok=True)
                yield _("Writing {name}").format(name=node.GetName())
                warnings += yield from _exportCase(node, classes, scene / case)
            parts = [*(["scene"] if segmentations else []), *([folder] if folder else [])]
            content = {"collection": parts} | ({} if classes is None else {"classes": list(classes)})
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (new / COLLECTION).write_text(text, encoding="utf-8")
            new.rename(target)
    except OSError as error:
        raise StorageError(
            _("{folder} cannot be written: {reason}.").format(folder=target, reason=error.strerror or error),
            STORAGE_HINT,
        ) from None
    return target / COLLECTION, warnings


def removeData(target: Path) -> None:
    """Delete what `exportData` wrote, if it is there; nothing else."""
    if (target / COLLECTION).is_file():
        shutil.rmtree(target, ignore_errors=True)


def _exportCase(node: Any, classes: Collection[str] | None, path: Path) -> Generator[str, None, list[str]]:
    if node.GetScene() is None:
        raise InputError(_("{name} is no longer in the scene.").format(name=node.GetName()))
    valid, reason = isValid(node)
    if not valid:
        raise InputError(reason)
    volume = volumeOf(node)
    scan = InputVolume.fromNode(volume)
    wanted = None if classes is None else {_key(name) for name in classes}
    chosen = [segment for segment in _segments(node) if wanted is None or _key(segment.GetName()) in wanted]
    label = np.zeros(scan.array.shape, np.uint8 if len(chosen) < 256 else np.uint16)
    described: list[Any] = []
    warnings: list[str] = []
    for value, segment in enumerate(chosen, 1):
        yield _("Writing {name}: {segment}").format(name=node.GetName(), segment=segment.GetName())
        if node.GetScene() is None or volume.GetScene() is None:
            raise InputError(_("{name} is no longer in the scene.").format(name=node.GetName()))
        inside = _mask(node, segment, volume)
        lost = int(np.count_nonzero(label[inside]))
        if lost:
            warnings.append(
                _("{name}: {count} voxels of {segment} lie in another class too; {segment} counts.").format(
                    name=node.GetName(), count=lost, segment=segment.GetName()
                )
            )
        label[inside] = value
        color = tuple(round(255 * part) for part in segment.GetColor())
        described.append(SimpleNamespace(value=value, name=segment.GetName(), color=color, terminology=None))
    if not label.any():
        raise InputError(
            _("{name} shows nothing of the chosen classes on {volume}.").format(
                name=node.GetName(), volume=volume.GetName()
            ),
            _("Choose other classes, or leave it out."),
        )
    from rwkv_core.volume.seg_nrrd import segmentation_fields  # brings SimpleITK, which nobody needs at start-up

    fields = segmentation_fields(described, label.shape, scan.ijkToRAS)
    for index, segment in enumerate(chosen):
        if segment.GetTerminology():
            fields[f"Segment{index}_Tags"] = f"TerminologyEntry:{segment.GetTerminology()}|"
    yield from _writeNRRD(path.with_name(path.name + ".nrrd"), scan.array, scan.ijkToRAS, {}, node.GetName())
    yield from _writeNRRD(path.with_name(path.name + ".seg.nrrd"), label, scan.ijkToRAS, fields, node.GetName())
    return warnings


def _mask(node: Any, segment: Any, volume: Any) -> np.ndarray:
    """(K, J, I) bool: a segment on the volume's grid, by Slicer's export."""
    segmentation = node.GetSegmentation()
    binary = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    if not segmentation.CreateRepresentation(binary):
        raise InputError(_("{name} cannot be converted to a labelmap.").format(name=node.GetName()))
    ids = vtk.vtkStringArray()
    ids.InsertNextValue(segmentation.GetSegmentIdBySegment(segment))
    image = slicer.vtkOrientedImageData()
    slicer.vtkSlicerSegmentationsModuleLogic.GenerateMergedLabelmapInReferenceGeometry(
        node, volume, ids, slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY, image
    )
    shape = volume.GetImageData().GetDimensions()[::-1]
    if image.GetDimensions()[::-1] != shape or image.GetPointData().GetScalars() is None:
        raise InputError(
            _("{segment} of {name} cannot be brought onto the grid of {volume}.").format(
                segment=segment.GetName(), name=node.GetName(), volume=volume.GetName()
            )
        )
    return np.asarray(numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape) != 0)


def _writeNRRD(
    path: Path, array: np.ndarray, ijkToRAS: np.ndarray, fields: dict[str, str], title: str
) -> Generator[str, None, None]:
    """Write an uncompressed NRRD file, some megabytes per turn: ITK's and Slicer's writers take seconds at once."""
    directions = _RAS_TO_LPS @ ijkToRAS[:3, :3]
    origin = _RAS_TO_LPS @ ijkToRAS[:3, 3]
    kinds = {"f": {4: "float", 8: "double"}.get(array.dtype.itemsize, "double")}
    header = [
        "NRRD0004",
        f"type: {kinds.get(array.dtype.kind) or array.dtype.name}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(size) for size in array.shape[::-1])}",
        f"space directions: {' '.join(_vector(directions[:, axis]) for axis in range(3))}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: raw",
        f"space origin: {_vector(origin)}",
        *(f"{key}:={value}" for key, value in fields.items()),
    ]
    slices = max(1, _TURN_BYTES // max(1, array[0].nbytes))
    with path.open("wb") as file:
        file.write(("\n".join(header) + "\n\n").encode("utf-8"))
        for first in range(0, len(array), slices):
            piece = array[first : first + slices]
            file.write(np.ascontiguousarray(piece, piece.dtype.newbyteorder("<")).data)
            yield _("Writing {name}").format(name=title)


def _vector(values: np.ndarray) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"


def _segments(node: Any) -> list[Any]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]


def _key(name: str) -> str:
    return " ".join(name.split()).casefold()


def _caseNames(segmentations: Sequence[Any]) -> list[str]:
    """Give a file name for each, after its volume; no two alike on any system."""
    names: list[str] = []
    for node in segmentations:
        stem = _FORBIDDEN.sub("_", " ".join((volumeOf(node).GetName() or "").split())).strip() or "case"
        name, number = stem, 1
        while name.casefold() in (other.casefold() for other in names):
            number += 1
            name = f"{stem} {number}"
        names.append(name)
    return names
