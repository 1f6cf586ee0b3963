"""Whether a NIfTI file is whole: ITK reads a broken one, and writes one to a full disk, without an error."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

_GZIP = b"\x1f\x8b"
_HEADER = 540  # bytes of a NIfTI-2 header, the longer one
_BLOCK = 1 << 22


def nifti_damage(path: Path) -> str:
    """What is wrong with a .nii or .nii.gz file, in words; "" when every voxel is there.

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


def _needed(header: bytes) -> int:
    """Bytes of the whole file by its header (NIfTI-1: 348 bytes, NIfTI-2: 540); 0 when it is neither."""
    if len(header) < 4:
        return 348
    for order in "<>":
        (size,) = struct.unpack_from(order + "i", header)
        if size not in (348, _HEADER):
            continue
        if len(header) < size:
            return int(size)
        if size == 348:
            shape = struct.unpack_from(order + "8h", header, 40)
            (bits,) = struct.unpack_from(order + "h", header, 72)
            (start,) = struct.unpack_from(order + "f", header, 108)
            apart = header[344:347] == b"ni1"  # voxels lie in a second file
        else:
            shape = struct.unpack_from(order + "8q", header, 16)
            (bits,) = struct.unpack_from(order + "h", header, 14)
            (start,) = struct.unpack_from(order + "q", header, 168)
            apart = header[4:7] == b"ni2"
        if apart or not math.isfinite(start):
            return 0
        return int(start) + math.prod(max(n, 1) for n in shape[1 : 1 + shape[0]]) * bits // 8
    return 0
