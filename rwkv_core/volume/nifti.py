"""NIfTI beside what ITK makes of it: whether a file is whole, whether its header contradicts itself, and files that
ITK does not read (NIfTI-2, gzip named .nii, a skew of a hundredth of a degree).

ITK reads a broken file, and writes one to a full disk, without an error.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rwkv_core.errors import InputError
from rwkv_core.volume.geometry import Array, Matrix

MAX_SKEW_DEGREES = 0.1
"""Axes of an sform that miss a right angle by less are straightened: 0.4 mm at the far end of 250 mm."""

_GZIP = b"\x1f\x8b"
_HEADER = 540  # bytes of a NIfTI-2 header, the longer one
_BLOCK = 1 << 22
_FIRST = 1 << 14  # bytes that hold a packed header
_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_KINDS = {32: "complex numbers", 1792: "complex numbers", 128: "colors", 2304: "colors", 1: "single bits"}
_SIZES = {32: 8, 1792: 16, 128: 3, 2304: 4, 1536: 16, 2048: 32}
_CIFTI = range(3000, 3100)  # intent codes
_METERS, _MICRONS, _UNITS = 1, 3, 7
_SCANNER = 1
_APART_VOXELS = 0.1
_SAME_SIZE = 0.01


@dataclass(frozen=True)
class NiftiHeader:
    """What the header of a NIfTI file says, of either version and byte order.

    Attributes:
        order: of the bytes, "<" or ">".
        shape: all axes, i first.
        start: byte at which the voxels begin.
        apart: whether they lie in a second file (.hdr, .img).
        pixdim: of i, j, k, mm; may be any number, or none.
        qform, sform: 4 x 4, RAS, mm; None where the header gives none.
        sform_code: 1 for the scanner's own coordinates.
        packed: whether the file is compressed by gzip.
    """

    version: int
    order: str
    shape: tuple[int, ...]
    datatype: int
    bits: int
    start: float
    apart: bool
    intent: int
    slope: float
    intercept: float
    pixdim: tuple[float, float, float]
    qform: Matrix | None
    sform: Matrix | None
    sform_code: int
    packed: bool = False

    @property
    def bytes(self) -> int:
        """Length of the whole file, unpacked; 0 where it does not say."""
        if self.apart or not math.isfinite(self.start):
            return 0
        known = int(_TYPES[self.datatype][1:]) if self.datatype in _TYPES else _SIZES.get(self.datatype, 0)
        bits = max(8 * known, self.bits)  # ITK goes by the type
        return int(self.start) + math.prod(max(n, 1) for n in self.shape) * bits // 8

    @property
    def ijk_to_ras(self) -> Matrix:
        """The one that ITK takes: sform in the scanner's coordinates or alone, else qform, else voxel sizes alone."""
        if self.sform is not None and (self.sform_code == _SCANNER or self.qform is None):
            return self.sform
        return self.qform if self.qform is not None else np.diag([*self.pixdim, 1.0]) @ np.diag([-1.0, -1, 1, 1])

    @property
    def skew(self) -> float:
        """Degrees by which two axes miss a right angle."""
        return _skew(self.ijk_to_ras)


def nifti_header(path: Path) -> NiftiHeader | None:
    """Give the header of a NIfTI file of any name, packed or not; None where it is none, or breaks off.

    Raises:
        OSError: when the file cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER)
        packed = head.startswith(_GZIP)
        if packed:
            try:
                head = zlib.decompressobj(wbits=31).decompress(head + file.read(_FIRST), _HEADER)
            except zlib.error:
                return None
    header = _parsed(head)
    return None if header is None else replace(header, packed=packed)


def nifti_notes(header: NiftiHeader, ijk_to_ras: Matrix) -> tuple[str, ...]:
    """List sentences about a header that contradicts itself.

    Args:
        ijk_to_ras: that was used.
    """
    notes = []
    if header.qform is None and header.sform is None:
        notes.append(
            "The header gives no orientation (neither sform nor qform): the volume was taken to run toward left, "
            "posterior and superior, as ITK and Slicer do. Left and right may be swapped."
        )
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    corners[:, :3] *= np.array((*header.shape, 1, 1, 1)[:3]) - 1
    smallest = float(np.linalg.norm(ijk_to_ras[:3, :3], axis=0).min())

    def apart(first: Matrix, other: Matrix) -> float:
        with np.errstate(all="ignore"):  # headers hold anything
            return float(np.linalg.norm((corners @ (first - other).T)[:, :3], axis=1).max())

    if header.qform is not None and header.sform is not None:
        distance = apart(header.qform, header.sform)
        if not distance <= _APART_VOXELS * smallest:
            used = "qform" if apart(header.qform, ijk_to_ras) < apart(header.sform, ijk_to_ras) else "sform"
            lie = f"up to {distance:.3g} mm apart" if math.isfinite(distance) else "one of them no numbers"
            notes.append(
                f"The header gives two places of the volume (sform and qform), {lie}: the {used} was used, as ITK and "
                "Slicer do. Other programs may take the other one."
            )
    if header.sform is not None and not notes:
        with np.errstate(all="ignore"):
            sizes = np.linalg.norm(header.sform[:3, :3], axis=0)
        if not np.allclose(sizes, header.pixdim, rtol=_SAME_SIZE):
            used_sizes = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
            notes.append(
                f"The header gives two voxel sizes: {_mm(header.pixdim)} mm (pixdim) and {_mm(sizes)} mm (sform). "
                f"{_mm(used_sizes)} mm was used: check it, volumes in milliliters depend on it."
            )
    return tuple(notes)


def read_nifti(path: Path, header: NiftiHeader) -> tuple[Array, Matrix, tuple[str, ...]]:
    """Read voxels (K, J, I), IJK to RAS and notes of a file that is whole; for those that ITK does not read.

    Raises:
        InputError: for values that are no scalars, and axes that are not at right angles.
    """
    if header.datatype not in _TYPES:
        raise InputError(f"{path} holds {_KINDS.get(header.datatype, 'values of a type that is not known')}.")
    kind = np.dtype(header.order + _TYPES[header.datatype])
    with path.open("rb") as file:
        data = gzip.GzipFile(fileobj=file).read() if header.packed else file.read()
    shape = (*header.shape, 1, 1, 1)[:3]
    array: Array = np.frombuffer(data, kind, math.prod(shape), int(header.start)).reshape(shape[::-1])
    array = array.astype(kind.newbyteorder("="))
    slope, intercept = header.slope, header.intercept
    if math.isfinite(slope) and math.isfinite(intercept) and slope != 0 and (slope, intercept) != (1, 0):
        array = (array * np.float64(slope) + intercept).astype(np.float32)
    matrix, notes = header.ijk_to_ras, []
    if not np.isfinite(matrix).all():
        raise InputError(
            f"{path}: the place of the volume in its header is no number.", hint="Convert it again from its source."
        )
    if 0 < header.skew <= MAX_SKEW_DEGREES:
        straight = matrix.copy()
        sizes = np.linalg.norm(matrix[:3, :3], axis=0)
        left, _, right = np.linalg.svd(matrix[:3, :3] / sizes)
        straight[:3, :3] = left @ right * sizes
        if header.skew > 1e-3:
            notes.append(f"The axes in the header miss right angles by {header.skew:.2g} degrees: straightened.")
        matrix = straight
    elif header.skew > MAX_SKEW_DEGREES:
        raise skewed(path, header)
    return array, matrix, (*notes, *nifti_notes(header, matrix))


def skewed(path: Path, header: NiftiHeader | None) -> InputError:
    """Give the refusal of axes that are not at right angles, with a command that resamples."""
    by = f" by {header.skew:.2g} degrees" if header and math.isfinite(header.skew) else ""
    return InputError(
        f"{path}: the axes in its header (sform) are not at right angles{by}, which ITK and Slicer refuse in NIfTI.",
        hint='Resample it: pip install nibabel scipy, then python -c "import nibabel as n, nibabel.processing as p; '
        f"n.save(p.resample_to_output(n.load('{path}')), 'straight.nii.gz')\"",
    )


def is_cifti(header: NiftiHeader) -> bool:
    """Tell whether it is the header of CIFTI, whose values belong to surfaces and regions instead of a grid."""
    return header.version == 2 and header.intent in _CIFTI


def nifti_damage(path: Path) -> str:
    """Say what is wrong with a .nii or .nii.gz file, in words; "" when every voxel is there.

    A packed file is unpacked once, block by block, so that its checksum is verified as well.

    Raises:
        OSError: when the file cannot be opened.
    """
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        if not packed:
            return _shortage(_needed(file.read(_HEADER)), path.stat().st_size)
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                header = stream.read(_HEADER)
                return _shortage(_needed(header), len(header) + _count(stream))
        except EOFError:
            return "it breaks off before its end"
        except (gzip.BadGzipFile, zlib.error):
            return "its compressed data are damaged"


def _count(stream: BinaryIO | gzip.GzipFile) -> int:
    count = 0
    while block := stream.read(_BLOCK):
        count += len(block)
    return count


def _shortage(needed: int, found: int) -> str:
    return f"it breaks off after {found} of {needed} bytes" if found < needed else ""


def _needed(head: bytes) -> int:
    """Bytes of the whole file by its header; 0 when it is none, or does not say."""
    header = _parsed(head)
    if header is not None:
        return header.bytes
    sizes = [struct.unpack_from(order + "i", head)[0] for order in "<>"] if len(head) >= 4 else [348]
    return max((size for size in sizes if size in (348, _HEADER) and len(head) < size), default=0)


def _parsed(head: bytes) -> NiftiHeader | None:
    """NIfTI-1 has 348 bytes, NIfTI-2 540; offsets from nifti1.h and nifti2.h."""
    for order in "<>":
        size = struct.unpack_from(order + "i", head)[0] if len(head) >= 4 else 0
        if size not in (348, _HEADER) or len(head) < size:
            continue

        def get(form: str, offset: int, order: str = order) -> tuple[Any, ...]:
            return struct.unpack_from(order + form, head, offset)

        if size == 348:
            version, apart = 1, head[344:347] == b"ni1"
            if head[344:348] not in (b"n+1\0", b"ni1\0"):  # Analyze, for one
                continue
            axes, (kind, bits) = struct.unpack_from(order + "8h", head, 40), get("2h", 70)
            pixdim, (start, slope, intercept) = get("8f", 76), get("3f", 108)
            (units,), (intent,) = head[123:124], get("h", 68)
            (q_code, s_code), quaternion, rows = get("2h", 252), get("6f", 256), get("12f", 280)
        else:
            version, apart = 2, head[4:7] == b"ni2"
            axes, (kind, bits) = struct.unpack_from(order + "8q", head, 16), get("2h", 12)
            pixdim, (start,), (slope, intercept) = get("8d", 104), get("q", 168), get("2d", 176)
            (units, intent), (q_code, s_code) = get("2i", 500), get("2i", 344)
            quaternion, rows = get("6d", 352), get("12d", 400)
        factor = {_METERS: 1000.0, _MICRONS: 0.001}.get(int(units) & _UNITS, 1.0)
        sizes = (factor * abs(pixdim[1]), factor * abs(pixdim[2]), factor * abs(pixdim[3]))
        sform = np.vstack([factor * np.reshape(rows, (3, 4)), [0, 0, 0, 1]])
        return NiftiHeader(
            version=version, order=order, shape=tuple(int(n) for n in axes[1:][: max(0, axes[0])]),
            datatype=int(kind), bits=int(bits), start=start, apart=apart, intent=int(intent), slope=slope,
            intercept=intercept, pixdim=sizes,
            qform=_qform(quaternion, pixdim[0], sizes, factor) if q_code > 0 else None,
            sform=sform if s_code > 0 and sform[:3, :3].any() else None, sform_code=int(s_code),
        )  # fmt: skip
    return None


def _qform(
    quaternion: tuple[float, ...], handedness: float, sizes: tuple[float, float, float], factor: float
) -> Matrix:
    b, c, d = quaternion[:3]
    a = math.sqrt(max(0.0, 1 - (b * b + c * c + d * d))) if all(map(math.isfinite, (b, c, d))) else math.nan
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
    ]
    matrix[:3, :3] *= np.array(sizes) * (1, 1, -1 if handedness < 0 else 1)
    matrix[:3, 3] = factor * np.array(quaternion[3:])
    return matrix


def _skew(matrix: Matrix) -> float:
    with np.errstate(all="ignore"):
        axes = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
        cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    return math.degrees(math.asin(min(cosine, 1.0))) if math.isfinite(cosine) else math.nan


def _mm(sizes: object) -> str:
    return " x ".join(f"{float(size):.4g}" for size in np.ravel(np.asarray(sizes)))
