"""Whether a NIfTI, NRRD or MetaImage file can hold the voxels that its header claims, told before ITK reads it.

ITK makes room for what a header claims, be it a terabyte, and returns garbage where the compression of a MetaImage is
damaged. Sources: the NRRD file format (teem.sourceforge.net/nrrd/format.html), MetaIO's documentation.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

from rwkv_core.volume.nifti import nifti_damage, nifti_header

_HEAD = 1 << 16
_BLOCK = 1 << 22
_NIFTI, _NRRD, _META = (".nii", ".nii.gz"), (".nrrd", ".nhdr"), (".mha", ".mhd")
_DEFLATE = 1032
"""Bytes that one byte of zlib's or gzip's gives at most."""

_OTHER_PACKING = 100_000
_META_BYTES = {
    "char": 1, "uchar": 1, "ascii_char": 1, "short": 2, "ushort": 2, "int": 4, "uint": 4, "long": 4, "ulong": 4,
    "long_long": 8, "ulong_long": 8, "float": 4, "double": 8,
}  # fmt: skip
_NRRD_BYTES = {
    1: ("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"),
    2: ("short", "short int", "signed short", "signed short int", "int16", "int16_t", "ushort", "unsigned short",
        "unsigned short int", "uint16", "uint16_t"),
    4: ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"),
    8: ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t",
        "ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t", "double"),
}  # fmt: skip


@dataclass(frozen=True)
class _Voxels:
    """Where the voxels lie, as a header says.

    Attributes:
        needed: bytes, unpacked; at least one a voxel where they are written as text.
        start: byte of `file` at which they begin.
        packing: bytes that one byte of the file gives at most; 1 for none.
        checked: whether they are packed by zlib, and ITK does not look at the checksum.
    """

    file: Path
    needed: int
    start: int
    packing: int
    checked: bool = False


def damage(path: Path) -> str:
    """Say what is wrong with the length or checksum of an image file; "" when nothing is, or it is unknown.

    Raises:
        OSError: when the file cannot be opened.
    """
    name = path.name.lower()
    if name.endswith(_NIFTI):
        bad = nifti_damage(path)
        if not bad and nifti_header(path) is None:  # ITK reads some of these, as Analyze
            return "it is not an image in a known format, or its header is damaged"
        return bad
    if not name.endswith((*_NRRD, *_META)):
        return ""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    try:
        voxels = _of_nrrd(path, head) if head.startswith(b"NRRD") else _of_meta(path, head)
        found = 0 if voxels is None else voxels.file.stat().st_size - voxels.start
    except OSError:  # ITK says which file is missing
        return ""
    except (ValueError, KeyError) as error:
        if name.endswith(_NRRD):  # teem says what is wrong, and keeps quiet beside it
            return ""
        return f"its header is damaged ({str(error).strip(chr(39))})" if b"=" in head else "it is no MetaImage"
    if voxels is None:
        return ""
    if found * voxels.packing < voxels.needed:
        if voxels.packing == 1:
            return f"it breaks off: its header claims {voxels.needed} bytes of voxels, and there are {max(found, 0)}"
        return f"its header claims {voxels.needed} bytes of voxels, which {max(found, 0)} compressed ones cannot hold"
    return _damage_of_zlib(voxels) if voxels.checked else ""


def _of_meta(path: Path, head: bytes) -> _Voxels | None:
    fields: dict[str, str] = {}
    start = 0
    for line in head.splitlines(keepends=True):
        start += len(line)
        key, sign, value = line.decode("latin-1").partition("=")
        if not sign:
            return None
        fields[key.strip().lower()] = value.strip()
        if key.strip().lower() == "elementdatafile":
            break
    where = fields["elementdatafile"]
    if not where:
        raise ValueError("ElementDataFile")
    if where.split()[0].upper() == "LIST" or "%" in where:
        return None
    local = where.upper() == "LOCAL"
    file = path if local else path.parent / where
    sizes = [int(size) for size in fields["dimsize"].split()]
    each = _META_BYTES[fields["elementtype"].lower().removeprefix("met_").removesuffix("_array")]
    needed = math.prod(sizes) * each * int(fields.get("elementnumberofchannels", 1))
    packed = fields.get("compresseddata", "false").lower() in ("true", "t", "1", "yes")
    skip = 0 if local else max(int(fields.get("headersize", 0)), 0)
    return _Voxels(file, needed, start if local else skip, _DEFLATE if packed else 1, packed)


def _of_nrrd(path: Path, head: bytes) -> _Voxels | None:
    fields: dict[str, str] = {}
    start = 0
    for line in head.splitlines(keepends=True):
        start += len(line)
        text = line.decode("latin-1").strip()
        if not text:
            break
        key, sign, value = text.partition(":")
        if sign and not text.startswith("#") and not value.startswith("="):
            fields[key.strip().lower().replace(" ", "")] = value.strip()
    where = fields.get("datafile", "")
    if where.upper().startswith("LIST") or "%" in where:
        return None
    voxels = math.prod(int(size) for size in fields["sizes"].split())
    kind, encoding = " ".join(fields["type"].lower().split()), fields["encoding"].lower()
    each = next((size for size, names in _NRRD_BYTES.items() if kind in names), 1)
    packing = {"raw": 1, "gzip": _DEFLATE, "gz": _DEFLATE, "bzip2": _OTHER_PACKING, "bz2": _OTHER_PACKING}
    text_like = encoding not in packing
    file = path.parent / where if where else path
    return _Voxels(file, voxels * (1 if text_like else each), 0 if where else start, packing.get(encoding, 1))


def _damage_of_zlib(voxels: _Voxels) -> str:
    """Unpacks once, block by block, which verifies the checksum."""
    unpacking, count = zlib.decompressobj(wbits=47), 0  # 47: zlib's header or gzip's
    with voxels.file.open("rb") as file:
        file.seek(voxels.start)
        try:
            while not unpacking.eof and (block := file.read(_BLOCK)):
                while block and not unpacking.eof:
                    count += len(unpacking.decompress(block, _BLOCK))
                    block = unpacking.unconsumed_tail
        except zlib.error:
            return "its compressed data are damaged"
    return "" if unpacking.eof and count >= voxels.needed else "its compressed data break off"
