"""Where voxels lie in the patient, and how a volume becomes a stack of slices. No input or output here.

Conventions, for the whole library:

- An array is indexed (K, J, I), as SimpleITK and VTK hand it to numpy: I is the fastest axis in memory.
- ``ijk_to_ras`` is the 4 x 4 matrix that takes the index of a voxel's centre, (i, j, k, 1), to millimetres in RAS
  (right, anterior, superior), as Slicer's vtkMRMLVolumeNode::GetIJKToRASMatrix. ITK and DICOM count in LPS.
- A letter names the direction toward which an axis runs: "S" grows toward superior.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import AXES, size_in_words

Array = npt.NDArray[Any]
Matrix = npt.NDArray[np.float64]

STORED = "stored"
"""The orientation that leaves a volume as it is stored: slices, rows, columns are K, J, I."""

MAX_SHEAR_DEGREES = 3.0
"""In-plane axes further than this from a right angle are refused: the network would see the anatomy slanted."""

_POSITIVE, _NEGATIVE = "RAS", "LPI"
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TIE = 1e-6  # cosines closer than this are equal: rounding must not choose an axis
_FLAT = 1e-3  # volume of the cell that unit vectors span, below which the axes lie in a plane
_COARSER = 1.1


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar image on its grid.

    Attributes:
        array: voxels (K, J, I), any integer or float type or bool; values as in the file (HU for CT).
        ijk_to_ras: 4 x 4, float64, read-only.
        name: for messages; usually the file's name.
        modality: as in DICOM, "CT" or "MR" for instance; empty when it is not known.
        notes: sentences about the file that a person should read, such as a header that contradicts itself.

    Raises:
        InputError: for an image that is not 3-D and scalar, has no voxels, or whose geometry is no geometry.
    """

    array: Array
    ijk_to_ras: Matrix
    name: str = ""
    modality: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        what = self.name or "The volume"
        _check_array(self.array, what)
        matrix = np.array(self.ijk_to_ras, dtype=np.float64)
        check_geometry(matrix, what)
        matrix.setflags(write=False)
        object.__setattr__(self, "ijk_to_ras", matrix)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of voxel centres along I, J, K in mm."""
        return spacing_of(self.ijk_to_ras)

    @property
    def directions(self) -> Matrix:
        """3 x 3: column n is the unit vector, in RAS, along which I, J or K runs."""
        return directions_of(self.ijk_to_ras)


@dataclass(frozen=True)
class SliceStack:
    """How a (K, J, I) array becomes a stack (slices, rows, columns), and back. Both ways are views, nothing is copied.

    Attributes:
        axes: which axis of the (K, J, I) array becomes slices, rows, columns.
        flips: whether slices, rows, columns run against that axis.
        shape: number of slices, rows, columns.
        spacing: distance of slices, rows, columns in mm, each along its own axis.
        code: directions toward which slices, rows and columns run (the nearest anatomical ones), e.g. "SPL".
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    code: str

    @property
    def slice_axis(self) -> int:
        """The axis of the (K, J, I) array along which slices follow each other: 0 is K, 1 is J, 2 is I."""
        return self.axes[0]

    def to_stack(self, array: Array) -> Array:
        """View of an array (..., K, J, I) as (..., slices, rows, columns)."""
        leading = array.ndim - 3
        return array.transpose(*range(leading), *(leading + axis for axis in self.axes))[(..., *self._steps())]

    def _steps(self) -> tuple[slice, slice, slice]:
        s, r, c = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return s, r, c


def orientation_code(ijk_to_ras: Matrix) -> str:
    """Give three letters: the anatomical directions toward which I, J and K run, e.g. "LPS".

    The axes are assigned together, each anatomical axis once: of the 48 axis orders and flips, the one with the largest
    sum of cosines. Of equal ones (45 degrees), the one that keeps I, J, K nearest to the order R, A, S.
    """
    cosines = directions_of(ijk_to_ras)
    best: tuple[int, ...] = ()
    best_sum = -1.0
    for order in permutations(range(3)):
        total = sum(abs(cosines[world, axis]) for axis, world in enumerate(order))
        if total > best_sum + _TIE:
            best, best_sum = order, total
    return "".join(
        _NEGATIVE[world] if cosines[world, axis] < -_TIE else _POSITIVE[world] for axis, world in enumerate(best)
    )


def slice_stack(ijk_to_ras: Matrix, shape: Sequence[int], orientation: str) -> SliceStack:
    """Say how a volume becomes a stack of slices in the given orientation.

    The slices are those of the grid: nothing is resampled, so an oblique volume gives oblique slices, named after the
    nearest anatomical axes. A slice axis that is not perpendicular to the slices (gantry tilt) only shifts slices
    against each other and is taken as it is.

    Args:
        ijk_to_ras: 4 x 4.
        shape: of the (K, J, I) array.
        orientation: directions toward which slices, rows and columns run, each anatomical axis once; or "stored".
            Note the order: "SPL" here is what ITK calls "LPS", which lists I, J, K.

    Raises:
        InputError: when rows and columns are more than 3 degrees from perpendicular.
        ValueError: when `orientation` is neither "stored" nor three such letters.
    """
    stack = _slice_stack(ijk_to_ras, shape, orientation)
    shear = _in_plane_shear(ijk_to_ras, stack)
    if shear > MAX_SHEAR_DEGREES:
        _, row, column = (AXES[axis] for axis in stack.axes)
        raise InputError(
            f"The volume's axes {column} and {row} are {90 - shear:.1f} degrees apart instead of 90, so its slices "
            "are slanted.",
            hint="Resample the volume to a grid with right angles, or harden its transform, then try again.",
        )
    return stack


def choose_stack(ijk_to_ras: Matrix, shape: Sequence[int], orientations: Sequence[str]) -> SliceStack:
    """Choose, of several allowed orientations, the one whose slices have the finest pixels.

    That is the one whose slice axis has the coarsest spacing; spacings within 10 % count as equal, and of equals the
    first listed is taken. Orientations with slanted slices, or with slices only one voxel wide, are passed over while
    another one is left.

    Args:
        ijk_to_ras: 4 x 4.
        shape: of the (K, J, I) array.
        orientations: as for `slice_stack`, the preferred one first.

    Raises:
        InputError: when no orientation has rows and columns within 3 degrees of perpendicular.
    """
    stacks = [_slice_stack(ijk_to_ras, shape, orientation) for orientation in orientations]
    upright = [stack for stack in stacks if _in_plane_shear(ijk_to_ras, stack) <= MAX_SHEAR_DEGREES]
    if not upright:
        return slice_stack(ijk_to_ras, shape, orientations[0])  # raises
    usable = [stack for stack in upright if min(stack.shape[1:]) > 1] or upright
    coarsest = max(stack.spacing[0] for stack in usable)
    return next(stack for stack in usable if stack.spacing[0] * _COARSER >= coarsest)


def fine_stacks(
    ijk_to_ras: Matrix, shape: Sequence[int], orientations: Sequence[str], largest_pixel: float, least_pixels: int
) -> list[SliceStack]:
    """Find, of several allowed orientations, all those whose slices are upright, fine and large enough.

    Args:
        ijk_to_ras: 4 x 4.
        shape: of the (K, J, I) array.
        orientations: as for `slice_stack`.
        largest_pixel: distance of rows and of columns, mm, that is still fine.
        least_pixels: rows and columns that a slice must have.
    """
    stacks = [_slice_stack(ijk_to_ras, shape, orientation) for orientation in orientations]
    return [
        stack
        for stack in stacks
        if _in_plane_shear(ijk_to_ras, stack) <= MAX_SHEAR_DEGREES
        and max(stack.spacing[1:]) <= largest_pixel
        and min(stack.shape[1:]) >= least_pixels
    ]


def spacing_of(ijk_to_ras: Matrix) -> tuple[float, float, float]:
    """Distance of voxel centres along I, J, K in mm."""
    i, j, k = np.linalg.norm(ijk_to_ras[:3, :3], axis=0).tolist()
    return i, j, k


def directions_of(ijk_to_ras: Matrix) -> Matrix:
    """3 x 3: column n is the unit vector, in RAS, along which I, J or K runs."""
    return np.asarray(ijk_to_ras[:3, :3] / np.linalg.norm(ijk_to_ras[:3, :3], axis=0), dtype=np.float64)


def lps_geometry(ijk_to_ras: Matrix) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Give origin (3), spacing (3) and direction (9, row by row) in LPS, as SimpleITK's Image takes them."""
    ijk_to_lps = _LPS_FROM_RAS @ ijk_to_ras
    return tuple(ijk_to_lps[:3, 3].tolist()), spacing_of(ijk_to_lps), tuple(directions_of(ijk_to_lps).ravel().tolist())


def ijk_to_ras_from_lps(origin: Sequence[float], spacing: Sequence[float], direction: Sequence[float]) -> Matrix:
    """Give the inverse of `lps_geometry`: 4 x 4 from origin (3), spacing (3) and direction (9, row by row) in LPS."""
    ijk_to_lps = np.eye(4)
    ijk_to_lps[:3, :3] = np.reshape(direction, (3, 3)) * np.asarray(spacing)
    ijk_to_lps[:3, 3] = origin
    return _LPS_FROM_RAS @ ijk_to_lps


def check_geometry(ijk_to_ras: Matrix, what: str = "The volume") -> None:
    """Check that a matrix places voxels in space; `what` names the volume in messages.

    Raises:
        InputError: when it is not 4 x 4, not finite, has a spacing of zero, or axes that lie in one plane.
    """
    hint = "The header of the file is damaged; convert the image again from its source."
    if ijk_to_ras.shape != (4, 4):
        raise InputError(f"{what}: the IJK to RAS matrix must be 4 x 4, not {size_in_words(ijk_to_ras.shape[::-1])}.")
    if not np.isfinite(ijk_to_ras).all():
        raise InputError(f"{what}: the position, spacing or direction is not a finite number.", hint)
    if not np.array_equal(ijk_to_ras[3], [0, 0, 0, 1]):
        raise InputError(f"{what}: the last row of the IJK to RAS matrix must be 0, 0, 0, 1.")
    spacing = spacing_of(ijk_to_ras)
    if min(spacing) <= 0:
        raise InputError(f"{what}: the spacing along {'IJK'[spacing.index(min(spacing))]} is zero.", hint)
    if abs(np.linalg.det(directions_of(ijk_to_ras))) < _FLAT:
        raise InputError(f"{what}: its three axes lie in one plane (singular IJK to RAS matrix).", hint)


def _check_array(array: Array, what: str) -> None:
    size = size_in_words(array.shape)
    if array.ndim == 4 and array.shape[-1] in (3, 4):
        raise InputError(
            f"{what} is a color or vector image ({size}), not a scalar one.", hint="Convert it to one channel first."
        )
    if array.ndim != 3:
        hint = "Give one 3-D volume, for example a single time point." if array.ndim > 3 else ""
        raise InputError(f"{what} has {array.ndim} dimensions ({size}), not 3.", hint)
    if array.size == 0:
        raise InputError(f"{what} is empty: its size is {size} voxels.")
    if array.dtype.kind not in "biuf":
        raise InputError(f"{what} holds values of type {array.dtype}; whole or real numbers are needed.")


def _slice_stack(ijk_to_ras: Matrix, shape: Sequence[int], orientation: str) -> SliceStack:
    runs = orientation_code(ijk_to_ras)[::-1]  # of K, J, I
    wanted = runs if orientation == STORED else orientation
    if len(wanted) != 3 or {_world_axis(letter) for letter in wanted} != {0, 1, 2}:
        raise ValueError(f'orientation must be "{STORED}" or name each axis once, like "SPL", not {orientation!r}')
    own = [_world_axis(letter) for letter in runs]
    spacing = spacing_of(ijk_to_ras)[::-1]
    slices, rows, columns = (own.index(_world_axis(letter)) for letter in wanted)
    axes = (slices, rows, columns)
    return SliceStack(
        axes=axes,
        flips=(wanted[0] != runs[slices], wanted[1] != runs[rows], wanted[2] != runs[columns]),
        shape=(shape[slices], shape[rows], shape[columns]),
        spacing=(spacing[slices], spacing[rows], spacing[columns]),
        code=wanted,
    )


def _world_axis(letter: str) -> int:
    return max(_POSITIVE.find(letter), _NEGATIVE.find(letter))


def _in_plane_shear(ijk_to_ras: Matrix, stack: SliceStack) -> float:
    """Degrees by which rows and columns miss a right angle."""
    directions = directions_of(ijk_to_ras)[:, ::-1]  # of K, J, I
    cosine = float(abs(directions[:, stack.axes[1]] @ directions[:, stack.axes[2]]))
    return math.degrees(math.asin(min(cosine, 1.0)))
