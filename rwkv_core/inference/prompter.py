"""Segment what the user points at, in one slice, then through the slices: two verbs, as segment-anything's predictor.

    prompter = rwkv_core.Prompter()
    prompter.set_volume(rwkv_core.read_volume("abdomen.nii.gz"))
    index, points = prompter.locate("axial", [(31.0, -42.0, 110.5)])
    probabilities = prompter.predict("axial", index, points)
    found = prompter.propagate(probabilities > 0.5, index, "axial")

Rows and columns count pixels of the slice, as `Prompter.stack` lays it out; a pixel's centre has whole numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from rwkv_core.bundle.bundle import Bundle
from rwkv_core.bundle.store import load_bundle
from rwkv_core.engines import choose_device, make_engine
from rwkv_core.errors import BundleError, Cancel, CancelledError, InputError, as_question
from rwkv_core.inference.intensity import measured
from rwkv_core.inference.prompt_maps import PicturePrompts, network_input
from rwkv_core.vocabulary import AXES
from rwkv_core.volume import SliceStack, Volume, slice_stack

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]
Points = Sequence[tuple[float, float]] | NDArray[Any]

PLANES = {"axial": "SPL", "coronal": "AIL", "sagittal": "LIP"}
"""Plane to the directions toward which slices, rows and columns run, as a radiologist views them."""

SIZE = 128
"""Pixels along each side of what the network looks at."""
FIRST_LOOK_MM = 128.0
"""Side of the first look at a single click, mm, if the slice is as large."""
MARGIN = 1.7
"""Side of a look, in longest sides of what it must hold."""
WINDOW = 0.8
"""Width of the window around the clicked intensity, as a share of the range of intensities around."""
BOX_BIAS = 0.85
"""Logit taken off what is found in a box: the network fills boxes too far."""
CONTRAST = 0.5
"""Weight of the contrast of intensities that is added to the logits of an answer to clicks or a box."""
STOP = 0.6
"""Propagation ends where a slice's mask and the one before agree less than this (Dice); chosen on one structure."""
UNLIKE = -0.3
"""Propagation ends where what was found has a mean contrast below this: its intensities are those around the start."""


@dataclass(frozen=True)
class PicturePoints:
    """What the user gave in one picture, in pixels (row, column).

    Attributes:
        positive, negative: (N, 2) clicks and pixels of scribbles.
        box: first row, first column, last row, last column, or None.
    """

    positive: NDArray[np.float64]
    negative: NDArray[np.float64]
    box: tuple[float, float, float, float] | None = None

    def all(self) -> NDArray[np.float64]:
        """(N, 2): clicks, and the box's corners."""
        corners = np.reshape(self.box, (2, 2)) if self.box is not None else np.zeros((0, 2))
        return np.concatenate([self.positive, self.negative, corners])


@dataclass(frozen=True)
class Propagation:
    """What `Prompter.propagate` found.

    Attributes:
        labelmap: (K, J, I) uint8, 1 inside, on the volume's own grid; the starting slice is as it was given.
        agreement: slice index to the Dice of its mask with that of the slice before it, on the way from the start.
        first, last: slices that were labelled, the outermost ones.
        reasons: why it ended toward lower and toward higher indices, as sentences.
    """

    labelmap: NDArray[np.uint8]
    agreement: dict[int, float]
    first: int
    last: int
    reasons: tuple[str, str]


class Prompter:
    """The promptable network, ready: made once, used for many volumes and clicks.

    Args:
        bundle: a bundle of kind "prompt", its id, or its folder.
        device: as in `rwkv_core.engines.make_engine`.
        engine: likewise.

    Raises:
        BundleError: for an unknown or broken bundle, or one that takes no prompts.
        DeviceError: when the device or the engine is not there.
    """

    def __init__(self, bundle: Bundle | str | Path = "prompt", device: str = "auto", engine: str = "auto"):
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        config = self.bundle.config
        if config.kind != "prompt":
            raise BundleError(
                f"{config.title} ({config.id}) takes no clicks.",
                hint='Choose a model of kind "prompt", such as prompt.',
            )
        choose_device(device, engine)
        self.engine = make_engine(self.bundle.weights, device, engine=engine)
        self._volume: Volume | None = None
        self._window: tuple[float, float] | None = None
        self.memory: Memory | None = None

    def set_volume(self, volume: Volume, window: tuple[float, float] | None = None) -> None:
        """Take the volume that is pointed at from now on.

        Args:
            volume: scalar, any numeric type and orientation.
            window: lowest and highest intensity that matter, as on the screen; None chooses around each click.

        Raises:
            InputError: for a window without width, or a volume without a finite value.
        """
        if window is not None and not window[0] < window[1]:
            raise InputError(f"The window from {window[0]:g} to {window[1]:g} has no width.")
        if volume.array.dtype.kind == "f" and not np.isfinite(volume.array).any():
            raise InputError("The volume holds no finite value.", hint="Check how it was made or exported.")
        self._volume, self._window, self.memory = volume, window, None

    def drop_volume(self) -> None:
        """Hold the volume no longer; `memory` stays until the next one is set."""
        self._volume = None

    def stack(self, plane: str) -> SliceStack:
        """How the volume is cut into slices.

        Args:
            plane: a key of `PLANES`, three letters as in `rwkv_core.volume.slice_stack`, or "stored"; or the axis of
                the slices, "I", "J" or "K", for slices as `SliceIndex.of` views them.

        Raises:
            InputError: when no volume was set, or its slices in this plane are slanted.
            ValueError: for another plane.
        """
        volume = self._set()
        if plane not in AXES:
            return slice_stack(volume.ijk_to_ras, volume.array.shape, PLANES.get(plane, plane))
        first = AXES.index(plane)
        axes = (first, *(axis for axis in (0, 1, 2) if axis != first))
        shape, spacing = volume.array.shape, volume.spacing[::-1]
        return SliceStack(
            axes=(axes[0], axes[1], axes[2]),
            flips=(False, False, False),
            shape=(shape[axes[0]], shape[axes[1]], shape[axes[2]]),
            spacing=(spacing[axes[0]], spacing[axes[1]], spacing[axes[2]]),
            code=plane,
        )

    def locate(self, plane: str, points: npt.ArrayLike) -> tuple[int, NDArray[np.float64]]:
        """Slice index, and (N, 2) rows and columns in it, of points (N, 3) in RAS mm that lie in one slice.

        Raises:
            InputError: for points outside the volume, or in different slices.
        """
        volume, stack = self._set(), self.stack(plane)
        ras = np.atleast_2d(np.asarray(points, np.float64))
        if ras.shape[1:] != (3,) or not np.isfinite(ras).all():
            raise InputError("A point in space needs three numbers: R, A and S in mm.")
        ijk = np.linalg.solve(volume.ijk_to_ras[:3, :3], (ras - volume.ijk_to_ras[:3, 3]).T).T
        kji: NDArray[np.float64] = ijk[:, ::-1].astype(np.float64)
        outside = ((kji < -0.5) | (kji >= np.array(volume.array.shape) - 0.5)).any(1)
        if outside.any():
            where = ", ".join(f"{v:.1f}" for v in ras[outside][0])
            raise InputError(f"The point {where} mm (R, A, S) lies outside the volume.")
        position = kji[:, list(stack.axes)]
        flipped = np.array(stack.shape) - 1 - position
        position = np.where(stack.flips, flipped, position)
        indices = np.rint(position[:, 0]).astype(int)
        if len(set(indices.tolist())) > 1:
            raise InputError(f"The points lie in different slices ({min(indices)} to {max(indices)}).",
                             hint="Give points of one slice, or another plane.")  # fmt: skip
        return int(indices[0]), position[:, 1:].astype(np.float64)

    def predict(
        self,
        plane: str,
        index: int,
        points: Points = (),
        labels: Sequence[int] | None = None,
        box: tuple[float, float, float, float] | None = None,
        scribble: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
        cancel: Cancel | None = None,
    ) -> Map:
        """Probabilities (rows, columns), float32, that each pixel of a slice belongs to what is pointed at.

        The points are taken in their order, each as a correction of the answer to those before: one that belongs takes
        nothing away, one that does not adds nothing. Answers to the same first points are remembered, so that a further
        point costs no more than the first.

        Args:
            plane: as in `stack`.
            index: of the slice.
            points: (N, 2) rows and columns.
            labels: 1 for a point that belongs, 0 for one that does not; None: all belong.
            box: first row, first column, last row, last column around the structure.
            scribble: (rows, columns) integers: positive belongs, negative does not, 0 says nothing.
            mask: (rows, columns) probabilities or booleans: an answer from before, to be corrected.
            cancel: asked between looks.

        Raises:
            InputError: for prompts that are outside the slice or the box, that contradict each other, or without any
                that belongs.
            CancelledError: when `cancel` says so.
        """
        stack = self.stack(plane)
        picture = self._picture(stack, index)
        steps = _steps(picture.values.shape, points, labels, box, scribble, mask is not None)
        given = None if mask is None else _as_map(mask, picture.values.shape, "The mask")
        stop = as_question(cancel)
        key = (stack.code, index, None if given is None else given.tobytes())
        if self.memory is None or self.memory.key != key:
            self.memory = Memory(key)
        known = self.memory.answers
        answer, done, before = given, 0, _NOTHING
        for n in range(len(steps), 0, -1):
            if _signature(steps[n - 1]) in known:
                answer, done, before = known[_signature(steps[n - 1])], n, steps[n - 1]
                break
        for step in steps[done:]:
            if stop():
                raise CancelledError
            found = self.answer(picture, step, answer)
            answer = found if answer is None else _corrected(answer, found, before, step)
            known[_signature(step)], before = answer, step
        assert answer is not None
        return answer.copy()

    def propagate(
        self,
        mask: npt.ArrayLike,
        index: int,
        plane: str = "axial",
        range: tuple[int, int] | None = None,  # noqa: A002  (the field's word)
        stop: float = STOP,
        progress: Callable[[int, int], None] | None = None,
        cancel: Cancel | None = None,
    ) -> Propagation:
        """Follow a structure from one slice into the slices beside, both ways.

        To the network's answer, logits are added of how much likelier an intensity is in the given mask than around
        it, and the shape prior: the distance from the border of the mask before, and that from the border of the given
        one divided by the slices in between, in distances of slices.

        Args:
            mask: (rows, columns) boolean, of the slice `index`.
            index: where to start.
            plane: as in `stack`.
            range: first and last slice to go to; None: as far as the structure goes.
            stop: Dice of neighbouring masks below which it ends, 0 to 1.
            progress: called with slices done and the most that there can be.
            cancel: asked before each slice.

        Raises:
            InputError: for an empty mask, one of another size, a range without the start, or `stop` beyond 0 to 1.
            CancelledError: when `cancel` says so.
        """
        stack = self.stack(plane)
        start = _as_map(mask, stack.shape[1:], "The mask") > 0.5
        if not start.any():
            raise InputError("The mask is empty: there is nothing to follow.")
        if not 0 <= stop <= 1:
            raise InputError(f"Slices can agree by 0 to 1 (Dice), so propagation cannot stop below {stop:g}.")
        beginning = self._picture(stack, index)
        first, last = (0, stack.shape[0] - 1) if range is None else (min(range), max(range))
        if not 0 <= first <= index <= last < stack.shape[0]:
            raise InputError(
                f"The slices {first} to {last} must lie within 0 to {stack.shape[0] - 1} and hold slice {index}."
            )
        volume, asked = self._set(), as_question(cancel)
        square = _first_square(beginning, _corners(start), alone=False)
        level = float(np.median(beginning.values[start]))
        window = self._window or _window_around(square.cut(beginning, beginning.values, smooth=True), level)
        contrast, given = _Contrast.around(beginning, start), _signed_distance(start, beginning.spacing)
        labelmap = np.zeros(volume.array.shape, np.uint8)
        slices = stack.to_stack(labelmap)
        slices[index] = start
        agreement: dict[int, float] = {}
        ends, reasons = [index, index], ["", ""]
        for way, step, end in ((0, -1, first), (1, 1, last)):
            before, position = start, index
            while position != end:
                if asked():
                    raise CancelledError
                position += step
                picture = self._picture(stack, position)
                answer = self.answer(picture, _NOTHING, None, before, window)
                shape = _signed_distance(before, picture.spacing) + given / abs(position - index)
                shape = (shape / stack.spacing[0]).clip(-8, 8)
                likelier = contrast(picture)
                found = (_logits(answer) + 2 * likelier + shape > 0) & (answer > 0)
                found = _connected_with(found, before)
                agreement[position] = _dice(found, before)
                if progress:
                    progress(len(agreement), last - first)
                if not found.any():
                    reasons[way] = "The structure ends there."
                    break
                if agreement[position] < stop:
                    reasons[way] = f"The next slice agrees with it by {agreement[position]:.2f} only (Dice)."
                    break
                if float(likelier[found].mean()) < UNLIKE:
                    reasons[way] = "What was found in the next slice is unlike the first one in its intensity."
                    break
                slices[position] = found
                before, ends[way] = found, position
            else:
                reasons[way] = "The volume ends there." if range is None else "That is the last slice asked for."
        return Propagation(labelmap, agreement, ends[0], ends[1], (reasons[0], reasons[1]))

    def answer(
        self,
        picture: "Picture",
        points: PicturePoints,
        before: Map | None = None,
        neighbour: Mask | None = None,
        window: tuple[float, float] | None = None,
    ) -> Map:
        """Probabilities (H, W) of any picture, also an oblique slice of a volume.

        To the network's logits the contrast of intensities of its answer against what is around that is added, except
        to those of the slice beside, to which `propagate` adds that of the slice where it began.

        Args:
            picture: what is looked at.
            points: the user's prompts in it.
            before: (H, W) probabilities of the previous answer.
            neighbour: (H, W) mask of the slice beside.
            window: lowest and highest intensity that matter; None: as `set_volume` says.
        """
        window = window or self._window
        held = [points.all()]
        if before is not None:
            held.append(_corners(before > 0.5))
        if neighbour is not None:
            held.append(_corners(neighbour))
        square = _first_square(picture, np.concatenate(held), alone=before is None and neighbour is None)
        if points.box is not None and before is None:
            likely = _likely_in_box(picture, points.box)
            found = self._look(picture, square, points, likely, neighbour, window)
            answer = np.where(square.inside(picture), _sigmoid(_logits(found) - BOX_BIAS), 0).astype(np.float32)
            return _sharpened(picture, answer)
        answer = self._look(picture, square, points, before, neighbour, window)
        farther = _farther_square(picture, square, answer, points)
        if farther is not None:
            answer = self._look(picture, farther, points, before, neighbour, window)
        return answer if neighbour is not None else _sharpened(picture, answer)

    def _look(
        self,
        picture: "Picture",
        square: "_Square",
        points: PicturePoints,
        before: Map | None,
        neighbour: Mask | None,
        window: tuple[float, float] | None,
    ) -> Map:
        """One pass of the network over a square of the picture; probabilities on the picture's pixels, 0 outside."""
        values = square.cut(picture, picture.values, smooth=True)
        low, high = window or _window_around(values, _level(picture.values, points, neighbour))
        image = ((values - low) / (high - low)).clip(0, 1).astype(np.float32)
        prompts = PicturePrompts(square.marks(picture, points.positive), square.marks(picture, points.negative))
        if points.box is not None:
            prompts.box = square.box(picture, points.box)
        if before is not None:
            prompts.answer = square.cut(picture, before, outside=0.0)
        if neighbour is not None:
            prompts.neighbour = (square.cut(picture, neighbour.astype(np.float32), outside=0.0) > 0.5).astype(
                np.float32
            )
        maps = network_input(image, prompts)
        logits = self.engine(maps[None])[0, 0]
        return square.back(picture, _sigmoid(logits.astype(np.float32)))

    def _picture(self, stack: SliceStack, index: int) -> "Picture":
        volume = self._set()
        if not 0 <= index < stack.shape[0]:
            raise InputError(
                f"There is no slice {index}: the volume has slices 0 to {stack.shape[0] - 1} in this plane."
            )
        values = stack.to_stack(volume.array)[index].astype(np.float32)
        known = measured(values)
        if not known.all():
            values = np.where(known, values, values[known].min() if known.any() else 0)
        return Picture(values, (stack.spacing[1], stack.spacing[2]))

    def _set(self) -> Volume:
        if self._volume is None:
            raise InputError("No volume was set yet.", hint="Call set_volume first.")
        return self._volume


@dataclass(frozen=True)
class Picture:
    """A slice: `values` (H, W) float32 in the volume's units, and the distance of rows and of columns, mm."""

    values: Map
    spacing: tuple[float, float]

    @property
    def extent(self) -> NDArray[np.float64]:
        """Height and width, mm."""
        return np.array(self.values.shape) * self.spacing


@dataclass
class Memory:
    """Answers to the first prompts of one slice, so that a further prompt asks for one more answer only."""

    key: tuple[Any, ...]
    answers: dict[bytes, Map] = field(default_factory=dict)


@dataclass(frozen=True)
class _Square:
    """What the network looks at: centre (row, column) and side, mm, of a picture; SIZE pixels along a side."""

    centre: tuple[float, float]
    side: float

    @property
    def pixel(self) -> float:
        return self.side / SIZE

    def _origin(self) -> NDArray[np.float64]:
        """Centre of the first pixel, mm."""
        return np.array(self.centre) - self.side / 2 + self.pixel / 2

    def pixels(self, picture: Picture, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels of the square of pixels (N, 2) of the picture."""
        return ((points + 0.5) * picture.spacing - self._origin()) / self.pixel

    def cut(self, picture: Picture, values: Map, smooth: bool = False, outside: float | None = None) -> Map:
        """(SIZE, SIZE) of values on the picture's pixels, linear; the nearest, or `outside`, beyond its border."""
        step = self.pixel / np.array(picture.spacing)
        offset = self._origin() / picture.spacing - 0.5
        if smooth and step.max() > 1.3:
            values = ndimage.gaussian_filter(values, np.maximum(step - 1, 0) * 0.5, truncate=2.5, mode="nearest")
        result: Map = ndimage.affine_transform(
            values,
            step,
            offset,
            (SIZE, SIZE),
            order=1,
            mode="nearest" if outside is None else "constant",
            cval=outside or 0.0,
            prefilter=False,
        )
        return result

    def back(self, picture: Picture, values: Map) -> Map:
        """On the picture's pixels; 0 outside the square."""
        step = np.array(picture.spacing) / self.pixel
        offset = (0.5 * np.array(picture.spacing) - self._origin()) / self.pixel
        values = np.pad(values, 1, mode="edge")  # half a pixel at the border lies beyond the last centre
        result: Map = ndimage.affine_transform(
            values, step, offset + 1, picture.values.shape, order=1, mode="constant", prefilter=False
        )
        return np.where(self.inside(picture), result, 0).astype(np.float32)

    def inside(self, picture: Picture) -> Mask:
        """(H, W) pixels of the picture whose centre lies in the square."""
        first, last = np.array(self.centre) - self.side / 2, np.array(self.centre) + self.side / 2
        row, column = ((np.arange(n) + 0.5) * s for n, s in zip(picture.values.shape, picture.spacing, strict=True))
        rows, columns = (row >= first[0]) & (row <= last[0]), (column >= first[1]) & (column <= last[1])
        return rows[:, None] & columns[None]

    def marks(self, picture: Picture, points: NDArray[np.float64]) -> Mask:
        """(SIZE, SIZE) with the nearest pixel of every point set."""
        result = np.zeros((SIZE, SIZE), bool)
        at = np.rint(self.pixels(picture, points)).astype(int)
        at = at[((at >= 0) & (at < SIZE)).all(1)]
        result[at[:, 0], at[:, 1]] = True
        return result

    def box(self, picture: Picture, box: tuple[float, float, float, float]) -> Map:
        """(SIZE, SIZE), 1 inside the box."""
        first, last = self.pixels(picture, np.reshape(box, (2, 2)) + np.array([[-0.5], [0.5]]))
        line = np.arange(SIZE)
        rows, columns = ((line >= first[n]) & (line < last[n]) for n in (0, 1))
        return (rows[:, None] & columns[None]).astype(np.float32)


_NOTHING = PicturePoints(np.zeros((0, 2)), np.zeros((0, 2)))


def _level(values: Map, points: PicturePoints, neighbour: Mask | None) -> float | None:
    """Intensity of what is pointed at: median around the first clicks, or of the neighbour's mask; a box tells none."""
    if len(points.positive):
        return float(np.median([_around(values, p) for p in points.positive[:9]]))
    if neighbour is not None and neighbour.any():
        return float(np.median(values[neighbour]))
    return None


def _around(values: Map, point: NDArray[np.float64]) -> float:
    row, column = np.rint(point).astype(int)
    return float(values[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].mean())


def _window_around(values: Map, level: float | None) -> tuple[float, float]:
    """Lowest and highest intensity of a window around the level that was pointed at, within those of a look."""
    low, high = (float(v) for v in np.percentile(values[::2, ::2], [0.5, 99.5]))
    if not low < high:
        low, high = float(values.min()), float(values.max())
    width = max(high - low, 1e-6)
    if level is None:
        return low, low + width
    half = width * WINDOW / 2
    centre = min(max(level, low + 0.6 * half), low + width - 0.6 * half)
    return centre - half, centre + half


@dataclass(frozen=True)
class _Contrast:
    """How much likelier an intensity is within something than around it: `ratio` (BINS,), logarithms, low to high."""

    low: float
    high: float
    ratio: NDArray[np.float64]
    BINS: ClassVar[int] = 32

    @classmethod
    def of(cls, picture: Picture, inside: Mask, margin: float) -> "_Contrast":
        """Compare the pixels of a mask with those up to `margin` pixels away from it."""
        around = ndimage.distance_transform_edt(~inside) <= max(margin, 3.0)
        values = ndimage.gaussian_filter(picture.values, 0.5)
        low, high = (float(v) for v in np.percentile(values[around], [0.5, 99.5]))
        self = cls(low, high, np.zeros(cls.BINS))
        shares = []
        for part in (inside, around & ~inside):
            counts = np.bincount(self._bin(values[part]), minlength=cls.BINS).astype(float)
            counts = ndimage.gaussian_filter1d(counts, 1.2, mode="nearest")
            shares.append(counts / max(counts.sum(), 1e-6) + 0.01)
        return replace(self, ratio=np.log(shares[0] / shares[1]).clip(-2, 2))

    @classmethod
    def around(cls, picture: Picture, mask: Mask) -> "_Contrast":
        """Compare a mask with a band around it as wide as a third of the mask, about."""
        return cls.of(picture, mask, 0.35 * float(np.sqrt(mask.sum())))

    def _bin(self, values: Map) -> NDArray[np.int64]:
        share = (values - self.low) / max(self.high - self.low, 1e-6)
        return (share * (self.BINS - 1)).clip(0, self.BINS - 1).astype(np.int64)

    def __call__(self, picture: Picture) -> Map:
        """(H, W) logits, -2 to 2."""
        result: Map = self.ratio[self._bin(ndimage.gaussian_filter(picture.values, 0.5))].astype(np.float32)
        return result


def _likely_in_box(picture: Picture, box: tuple[float, float, float, float]) -> Map:
    """(H, W) probabilities of belonging, by how much likelier its intensity is in the box than around it; 0 outside.

    A box around a crescent holds more of something else in its middle: what lies outside of the box tells them apart.
    """
    first, last = np.rint(box[:2]).astype(int), np.rint(box[2:]).astype(int) + 1
    inside = np.zeros(picture.values.shape, bool)
    inside[first[0] : last[0], first[1] : last[1]] = True
    contrast = _Contrast.of(picture, inside, 0.35 * float((last - first).max()))
    result: Map = np.where(inside, _sigmoid(2 * contrast(picture)), 0).astype(np.float32)
    return result


def _sharpened(picture: Picture, answer: Map) -> Map:
    """(H, W) probabilities of an answer, with the contrast of what it holds against what is around it in its logits."""
    if not (answer > 0.5).any():
        return answer
    (top, left), (bottom, right) = _corners(answer > 0).astype(int)  # the look: the contrast costs no more than it
    look = slice(top, bottom + 1), slice(left, right + 1)
    part, found = replace(picture, values=picture.values[look]), answer[look]
    logits = _logits(found) + CONTRAST * _Contrast.around(part, found > 0.5)(part)
    result = np.zeros_like(answer)
    result[look] = np.where(found > 0, _sigmoid(logits), 0)
    return result


def _signed_distance(mask: Mask, spacing: tuple[float, float]) -> Map:
    """(H, W) distance from the border of a mask, mm, positive inside."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    distance = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, True, False, True))
    return np.nan_to_num(distance.astype(np.float32))


def _sigmoid(logits: Map) -> Map:
    return (1 / (1 + np.exp(-logits))).astype(np.float32, copy=False)


def _logits(probabilities: Map) -> Map:
    clipped = probabilities.clip(1e-4, 1 - 1e-4)
    return np.log(clipped / (1 - clipped))


def _corrected(answer: Map, found: Map, before: PicturePoints, now: PicturePoints) -> Map:
    """What further prompts found, where they allow it: those that belong take nothing away, the others add nothing."""
    more, less = len(now.positive) > len(before.positive), len(now.negative) > len(before.negative)
    if more == less or now.box != before.box:
        return found
    return np.maximum(answer, found) if more else np.minimum(answer, found)


def _first_square(picture: Picture, held: NDArray[np.float64], alone: bool) -> _Square:
    """A square around pixels (N, 2) that it must hold; a lone click says nothing of the size."""
    first, last = (held.min(0) + 0.5) * picture.spacing, (held.max(0) + 0.5) * picture.spacing
    longest = float((last - first).max())
    side = max(MARGIN * longest, FIRST_LOOK_MM if alone and longest < FIRST_LOOK_MM / MARGIN else 0.0)
    return _placed(picture, (first + last) / 2, side)


def _placed(picture: Picture, centre: NDArray[np.float64], side: float) -> _Square:
    """A square of at least 16 of the picture's pixels, no larger than it, moved into it where it would stick out."""
    side = float(np.clip(side, 16 * max(picture.spacing), picture.extent.max()))
    extent = picture.extent
    low, high = np.minimum(side / 2, extent / 2), np.maximum(extent - side / 2, extent / 2)
    moved = np.clip(centre, low, high)
    return _Square((float(moved[0]), float(moved[1])), side)


def _farther_square(picture: Picture, square: _Square, answer: Map, points: PicturePoints) -> _Square | None:
    """Twice as large a square where the answer reaches the border of the look; None where it does not."""
    found = answer > 0.5
    if not found.any() or square.side > picture.extent.max() * 0.99:
        return None
    corners = _corners(found)
    first, last = corners[0] * picture.spacing, (corners[1] + 1) * picture.spacing
    low, high = np.array(square.centre) - square.side / 2, np.array(square.centre) + square.side / 2
    edge = 1.01 * np.maximum(square.pixel, picture.spacing)
    reaches = ((first <= low + edge) & (low > edge)) | ((last >= high - edge) & (high < picture.extent - edge))
    if not reaches.any():
        return None
    held = np.concatenate([corners, points.all()])
    middle = (held.min(0) + held.max(0) + 1) / 2 * picture.spacing
    return _placed(picture, middle, 2 * square.side)


def _corners(mask: Mask) -> NDArray[np.float64]:
    """(2, 2) first and last row and column of a mask; (0, 2) of an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros((0, 2))
    return np.array([[rows[0], columns[0]], [rows[-1], columns[-1]]], np.float64)


def _steps(
    shape: tuple[int, ...],
    points: Points,
    labels: Sequence[int] | None,
    box: tuple[float, float, float, float] | None,
    scribble: npt.ArrayLike | None,
    corrects: bool,
) -> list[PicturePoints]:
    """The prompts as a user gives them, one after another: box and scribble, then points; each with those before.

    Raises:
        InputError: in words, for prompts that cannot be answered.
    """
    at = np.asarray(points, np.float64)
    at = at if at.size else at.reshape(0, 2)
    if at.shape[1:] != (2,):
        raise InputError("A point in a slice needs two numbers: its row and its column.")
    given = np.ones(len(at), int) if labels is None else np.asarray(labels, int).reshape(-1)
    if len(given) != len(at):
        raise InputError(f"There are {len(at)} points but {len(given)} labels.")
    size = np.array(shape)
    if not np.isfinite(at).all() or ((at < -0.5) | (at >= size - 0.5)).any():
        raise InputError(f"A point lies outside the slice of {shape[0]} rows and {shape[1]} columns.")
    if box is not None:
        if not np.isfinite(box).all() or box[0] > box[2] or box[1] > box[3]:
            raise InputError("The box must be first row, first column, last row, last column.")
        if box[2] < 0 or box[3] < 0 or box[0] > shape[0] - 1 or box[1] > shape[1] - 1:
            raise InputError("The box lies outside the slice.")
        box = (max(box[0], 0), max(box[1], 0), min(box[2], shape[0] - 1), min(box[3], shape[1] - 1))
        inside = ((at >= np.array(box[:2]) - 1) & (at <= np.array(box[2:]) + 1)).all(1)
        if (~inside & (given > 0)).any():
            raise InputError(
                "A point that belongs lies outside the box.", hint="Draw the box larger, or move the point."
            )
    pixels = [tuple(p) for p in np.rint(at).astype(int).tolist()]
    both = {p for p, g in zip(pixels, given, strict=True) if g > 0} & {
        p for p, g in zip(pixels, given, strict=True) if g <= 0
    }
    if both:
        row, column = both.pop()
        raise InputError(f"Points at row {row}, column {column} say both that it belongs and that it does not.")
    drawn = None if scribble is None else np.asarray(scribble)
    if drawn is not None and drawn.shape != tuple(shape):
        raise InputError(f"The scribble must have the slice's {shape[0]} x {shape[1]} pixels.")
    positive, negative = (
        (np.zeros((0, 2)), np.zeros((0, 2))) if drawn is None else (np.argwhere(drawn > 0), np.argwhere(drawn < 0))
    )
    if not corrects and not len(positive) and not (given > 0).any() and box is None:
        raise InputError("No prompt says what belongs.", hint="Click into the structure, or draw a box around it.")
    start = PicturePoints(positive.astype(float), negative.astype(float), box)
    steps = [start] if len(start.all()) else []
    order = (
        np.argsort(given <= 0, kind="stable") if not steps and not corrects and given[0] <= 0 else np.arange(len(at))
    )
    for point, belongs in zip(at[order], given[order] > 0, strict=True):
        if belongs:
            start = replace(start, positive=np.concatenate([start.positive, point[None]]))
        else:
            start = replace(start, negative=np.concatenate([start.negative, point[None]]))
        steps.append(start)
    return steps or [_NOTHING]


def _signature(step: PicturePoints) -> bytes:
    return b"|".join([step.positive.tobytes(), step.negative.tobytes(), repr(step.box).encode()])


def _as_map(mask: npt.ArrayLike, shape: tuple[int, ...], what: str) -> Map:
    array = np.asarray(mask, np.float32)
    if array.shape != tuple(shape):
        raise InputError(f"{what} must have the slice's {shape[0]} x {shape[1]} pixels.")
    return array


def _connected_with(found: Mask, before: Mask) -> Mask:
    """The parts of a mask that overlap the mask of the slice before."""
    parts, count = ndimage.label(found, np.ones((3, 3)))
    if count < 2:
        return found if (found & before).any() else np.zeros_like(found)
    touched = np.unique(parts[before & found])
    result: Mask = np.isin(parts, touched[touched > 0])
    return result


def _dice(a: Mask, b: Mask) -> float:
    return float(2 * (a & b).sum() / max(int(a.sum()) + int(b.sum()), 1))
