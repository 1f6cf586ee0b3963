"""What the user points at: prompts in space, and the slice in which they lie, straight or oblique."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import vtk
from slicer.i18n import tr as _

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import AXES, Region, SegmentClass, SliceIndex
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume
from RWKVUNetSegmentLib.Scene.ObliqueSlices import onVolume, planeOf
from RWKVUNetSegmentLib.Scene.SegmentationWriting import LabelledPart, SegmentationWriter
from RWKVUNetSegmentLib.Scene.SegmentClasses import findSegments, terminologyOf
from RWKVUNetSegmentLib.Scene.SegmentLayers import maskOf, sliceOfMask
from RWKVUNetSegmentLib.Scene.SliceViews import sliceOf
from RWKVUNetSegmentLib.Scene.VerifiedSlices import inWords

POINT, BOX, SCRIBBLE = "point", "box", "scribble"
"""Kinds of prompts, and the tools that make them."""

PROMPTS_TAG = "RWKVUNetSegment.Prompts"
"""Tag of a segment: the prompts that it was made with, slice by slice, as JSON; positions in world coordinates, mm."""

Place = tuple[float, float, float]


@dataclass(frozen=True)
class Prompt:
    """One thing that the user gave.

    Attributes:
        kind: one of `POINT`, `BOX`, `SCRIBBLE`.
        positive: whether it belongs; a box always does.
        places: world coordinates, mm: of a point one, of a box two opposite corners, of a scribble its line.
    """

    kind: str
    positive: bool
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Pointed:
    """What was given in a slice, and the answer.

    Attributes:
        painted: int8 (rows, columns), 1 where the user has painted, -1 where erased; None where neither.
        answer: bool (rows, columns); None while there is none: the segment is then as it was.
    """

    prompts: tuple[Prompt, ...] = ()
    painted: np.ndarray | None = None
    answer: np.ndarray | None = None

    @property
    def empty(self) -> bool:
        return not self.prompts and self.painted is None

    @property
    def saysWhatBelongs(self) -> bool:
        painted = self.painted is not None and bool((self.painted > 0).any())
        return painted or any(prompt.positive for prompt in self.prompts)


class PromptedSlice:
    """A slice of a volume, and what one segment held in it before anything was pointed at.

    Args:
        volume: scalar volume node.
        sliceIndex: which slice.

    Attributes:
        key: what tells it from others.
        shape: rows and columns.
        base: bool (rows, columns), what the segment held before; set by `begin`.
    """

    def __init__(self, volume: Any, sliceIndex: SliceIndex):
        given = InputVolume.fromNode(volume)
        self.volume, self.sliceIndex = volume, sliceIndex
        self.key: Any = sliceIndex
        self._toWorld = given.ijkToWorld
        self._size = given.array.shape[::-1]
        self._fixed: int = "IJK".index(sliceIndex.axis)
        self._across = [n for n in (2, 1, 0) if n != self._fixed]
        self.shape = (self._size[self._across[0]], self._size[self._across[1]])
        self.base = np.zeros(self.shape, bool)

    @property
    def inWords(self) -> str:
        """Such as "Axial 31"."""
        return inWords(self.volume, [self.sliceIndex])

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors along rows and columns in the world: what a box is parallel to."""
        first, second = (self._toWorld[:3, n] / np.linalg.norm(self._toWorld[:3, n]) for n in self._across)
        return first, second

    @property
    def middle(self) -> Place:
        """World position of the middle of the slice."""
        return self.place(self.voxel(self.place([(size - 1) / 2 for size in self._size])))

    def inside(self, place: Sequence[float]) -> bool:
        """Whether a position (world, mm) lies over the slice."""
        ijk = self._ijk(place)
        return all(-0.5 <= at < size - 0.5 for at, size in zip(ijk, self._size, strict=True))

    def nearest(self, place: Sequence[float]) -> Place:
        """The position itself, or where it lies outside of the slice, the nearest voxel's."""
        if self.inside(place):
            return place[0], place[1], place[2]
        ijk = np.clip(self._ijk(place), 0, np.array(self._size) - 1)
        ijk[self._fixed] = self.sliceIndex.index
        return self.place(ijk)

    def voxel(self, place: Sequence[float]) -> Place:
        """(I, J, K) of a position, as the worker takes it."""
        ijk = self._ijk(place)
        return float(ijk[0]), float(ijk[1]), float(ijk[2])

    def pixel(self, place: Sequence[float]) -> tuple[float, float]:
        """Row and column of a position."""
        ijk = self._ijk(place)
        return float(ijk[self._across[0]]), float(ijk[self._across[1]])

    def place(self, voxel: Sequence[float]) -> Place:
        """World position of (I, J, K)."""
        world = self._toWorld @ [*voxel, 1.0]
        return float(world[0]), float(world[1]), float(world[2])

    def begin(self, writer: SegmentationWriter, node: Any, segmentID: str) -> None:
        """Remember what the segment holds here; nothing where there is no segment yet."""
        if node is not None and segmentID:
            self.base = self.read(writer, node, segmentID)

    def read(self, writer: SegmentationWriter, node: Any, segmentID: str) -> np.ndarray:
        """What a segment holds here: bool (rows, columns)."""
        grid = writer.gridOf(node, self.volume)
        return sliceOfMask(
            node.GetSegmentation().GetSegment(segmentID), grid, self.sliceIndex.dimension, self.sliceIndex.index
        )

    def write(self, writer: SegmentationWriter, node: Any, segmentID: str, mask: np.ndarray | None) -> tuple[str, ...]:
        """Make the segment hold a mask here; None for what it held before. Gives what was left as it was, in words.

        Raises:
            InputError: when that is not allowed.
        """
        return writer.writeSegmentSlice(
            node, self.volume, segmentID, self.sliceIndex, self.base if mask is None else mask
        )

    def _ijk(self, place: Sequence[float]) -> np.ndarray:
        ijk: np.ndarray = (np.linalg.inv(self._toWorld) @ [*place, 1.0])[:3]
        ijk[self._fixed] = self.sliceIndex.index
        return ijk


class PromptedPlane(PromptedSlice):
    """The plane of an oblique view: resampled for the worker, and its answer put back on the volume's voxels.

    Attributes:
        array: float32 (1, rows, columns).
    """

    def __init__(self, volume: Any, view: Any):
        plane = planeOf(volume, view)
        super().__init__(volume, SliceIndex("K", 0))
        self.array = plane.array
        self._toWorld = plane.ijkToWorld
        self._size = plane.array.shape[::-1]
        self.shape = (self._size[1], self._size[0])
        self.base = np.zeros(self.shape, bool)
        self.key = planeKey(view)
        self._before: np.ndarray | None = None
        self._where: np.ndarray | None = None

    @property
    def inWords(self) -> str:
        return _("This oblique slice")

    @property
    def ijkToWorld(self) -> np.ndarray:
        return self._toWorld

    def read(self, writer: SegmentationWriter, node: Any, segmentID: str) -> np.ndarray:
        whole = maskOf(node.GetSegmentation().GetSegment(segmentID), writer.gridOf(node, self.volume))
        given = InputVolume.fromNode(self.volume)
        j, i = np.indices(self.shape, np.float32)
        toVolume = np.linalg.inv(given.ijkToWorld) @ self._toWorld
        ijk = np.rint(np.einsum("ab,brc->arc", toVolume[:3], np.stack([i, j, 0 * i, 0 * i + 1]))).astype(int)
        inside = np.all([(ijk[n] >= 0) & (ijk[n] < whole.shape[2 - n]) for n in range(3)], axis=0)
        found = np.zeros(self.shape, bool)
        found[inside] = whole[ijk[2][inside], ijk[1][inside], ijk[0][inside]]
        return found

    def begin(self, writer: SegmentationWriter, node: Any, segmentID: str) -> None:
        super().begin(writer, node, segmentID)
        _labels, self._where = onVolume(np.zeros(self.shape, np.uint8), self._toWorld, self.volume)
        self._before = np.zeros(np.count_nonzero(self._where), bool)
        if node is not None and segmentID:
            whole = maskOf(node.GetSegmentation().GetSegment(segmentID), writer.gridOf(node, self.volume))
            self._before = whole[self._where]

    def write(self, writer: SegmentationWriter, node: Any, segmentID: str, mask: np.ndarray | None) -> tuple[str, ...]:
        assert self._where is not None and self._before is not None
        if mask is None:
            labels = np.zeros(self._where.shape, np.uint8)
            labels[self._where] = self._before
        else:
            labels, _where = onVolume(mask.astype(np.uint8), self._toWorld, self.volume)
        return writeWhole(writer, node, self.volume, segmentID, labels, self._where)


def writeWhole(
    writer: SegmentationWriter, node: Any, volume: Any, segmentID: str, labels: np.ndarray, where: np.ndarray
) -> tuple[str, ...]:
    """Make a segment 1 where `labels` (K, J, I) is, within `where`; gives what was left as it was, in words.

    Raises:
        InputError: when that cannot be done.
    """
    segment = node.GetSegmentation().GetSegment(segmentID)
    red, green, blue = (round(255 * part) for part in segment.GetColor())
    entry = SegmentClass(value=1, name=segment.GetName(), color=(red, green, blue), terminology=terminologyOf(segment))
    if findSegments(node, [entry]).get(1) != segmentID:
        raise InputError(
            _("There are two structures named {name}.").format(name=entry.name), hint=_("Rename one of them.")
        )
    part = LabelledPart(labels, Region.whole(labels.shape), (entry,), where=where)
    return writer.write(node, volume, part, undoable=False).warnings


def promptedSlice(volume: Any, view: Any) -> PromptedSlice:
    """What a view shows of a volume.

    Raises:
        InputError: when it shows nothing of it.
    """
    sliceIndex = sliceOf(volume, view)
    return PromptedSlice(volume, sliceIndex) if sliceIndex is not None else PromptedPlane(volume, view)


def planeKey(view: Any) -> tuple[float, ...]:
    """Normal and offset of a view: scrolling changes it, panning does not."""
    matrix = view.GetSliceToRAS()
    normal = [matrix.GetElement(row, 2) for row in range(3)]
    offset = sum(n * matrix.GetElement(row, 3) for row, n in enumerate(normal))
    return tuple(round(value, 3) for value in (*normal, offset))


def scribbleMap(prompts: Sequence[Prompt], painted: np.ndarray | None, where: PromptedSlice) -> np.ndarray | None:
    """int8 (rows, columns): 1 where scribbles and paint say that it belongs, -1 where not; None without any."""
    drawn = [prompt for prompt in prompts if prompt.kind == SCRIBBLE]
    if not drawn and painted is None:
        return None
    found = np.zeros(where.shape, np.int8)
    for prompt in drawn:
        points = np.array([where.pixel(place) for place in prompt.places])
        steps = np.abs(np.diff(points, axis=0)).max(1) if len(points) > 1 else []
        line = [points[:1]]
        for a, b, step in zip(points[:-1], points[1:], steps, strict=True):
            line.append(a + (b - a) * np.linspace(0, 1, int(np.ceil(2 * step)) + 1)[:, None])
        at = np.rint(np.concatenate(line)).astype(int)
        at = at[((at >= 0) & (at < where.shape)).all(1)]
        found[at[:, 0], at[:, 1]] = 1 if prompt.positive else -1
    if painted is not None:
        np.copyto(found, painted, where=painted != 0)
    return found


def savePrompts(segment: Any, where: PromptedSlice, prompts: Sequence[Prompt]) -> None:
    """Keep the prompts of a slice with the segment; they replace those of the same slice."""
    if not prompts:
        return
    key = f"{where.sliceIndex.axis}{where.sliceIndex.index}" if isinstance(where.key, SliceIndex) else repr(where.key)
    saved = savedPrompts(segment)
    saved[key] = [[prompt.kind, prompt.positive, np.round(prompt.places, 3).tolist()] for prompt in prompts]
    segment.SetTag(PROMPTS_TAG, json.dumps(saved))


def savedPrompts(segment: Any) -> dict[str, Any]:
    """Prompts that a segment was made with, by slice: kind, whether it belongs, positions."""
    text = vtk.reference("")
    if not segment.GetTag(PROMPTS_TAG, text):
        return {}
    try:
        found = json.loads(str(text))
    except ValueError:  # somebody else's
        return {}
    return found if isinstance(found, dict) else {}


def axisTowards(volume: Any, axis: str) -> tuple[str, int]:
    """The letter (R, A or S) that an axis of a volume runs along most, and 1 or -1 where it runs the other way."""
    column = InputVolume.fromNode(volume).ijkToWorld[:3, "IJK".index(axis)]
    letter = int(np.argmax(np.abs(column)))
    return "RAS"[letter], 1 if column[letter] > 0 else -1


assert AXES == ("K", "J", "I")
