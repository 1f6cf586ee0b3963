"""Headers that claim what no file of this length holds, and damaged voxels: refused at once, without making room."""

import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from rwkv_core.errors import InputError
from rwkv_core.volume import read_volume

from core.dicom_files import changed, write_frames

KINDS = ("nii", "nii.gz", "nrrd", "mha", "nhdr", "mhd")
SIZES = {"nothing holds": (4294967295,) * 3, "this file does not hold": (3000, 3000, 600)}
ARRAY = np.random.default_rng(0).integers(0, 1000, (20, 30, 40)).astype(np.int16)


def with_size(path, size, packed):
    """A small file whose header says it is this large."""
    image = sitk.GetImageFromArray(ARRAY)
    sitk.WriteImage(image, str(path), packed)
    if ".nii" in path.name:
        import gzip
        import struct

        data = bytearray(gzip.decompress(path.read_bytes()) if path.name.endswith("gz") else path.read_bytes())
        struct.pack_into("<3h", data, 42, *(min(n, 32767) for n in size))
        path.write_bytes(gzip.compress(data) if path.name.endswith("gz") else data)
        return path
    data = path.read_bytes()
    old, new = ("40 30 20", " ".join(map(str, size)))
    assert old.encode() in data
    path.write_bytes(data.replace(old.encode(), new.encode(), 1))
    return path


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_header_that_claims_too_much_is_refused(kind, size, packed, tmp_path):
    with pytest.raises(InputError, match=r"cannot be read: .*(claims|breaks off)"):
        read_volume(with_size(tmp_path / f"a.{kind}", SIZES[size], packed))


def test_nifti_whose_bits_do_not_fit_its_type(tmp_path):
    path = with_size(tmp_path / "a.nii", (3000, 3000, 600), False)
    data = bytearray(path.read_bytes())
    data[70:74] = (1024).to_bytes(2, "little") + (0).to_bytes(2, "little")  # 64-bit numbers of no bits
    path.write_bytes(data)
    with pytest.raises(InputError, match="breaks off"):
        read_volume(path)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of memory to set")
def test_no_room_is_made_for_what_a_header_claims(tmp_path):
    paths = [with_size(tmp_path / f"{n}{packed}.{kind}", size, packed)
             for kind in KINDS for n, size in enumerate(SIZES.values()) for packed in (True, False)]  # fmt: skip
    code = """
import resource, sys
from rwkv_core.errors import InputError
from rwkv_core.volume import read_volume
import SimpleITK
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        read_volume(path)
        sys.exit(path + " was read")
    except InputError:
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 200_000  # KiB


@pytest.mark.parametrize("place", [0.2, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["mha", "mhd", "nrrd", "nhdr", "nii.gz"])
def test_a_damaged_byte_of_compressed_voxels_is_noticed(kind, place, tmp_path, capfd):
    sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(tmp_path / f"a.{kind}"), True)
    file = next((p for p in tmp_path.iterdir() if p.suffix in (".zraw", ".gz") and p.name != "a.nii.gz"), None)
    file = file or tmp_path / f"a.{kind}"
    data = bytearray(file.read_bytes())
    data[1000 + int(place * (len(data) - 1010))] ^= 0x10
    file.write_bytes(data)
    with pytest.raises(InputError, match="cannot be read"):
        read_volume(tmp_path / f"a.{kind}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_are_read(kind, packed, tmp_path):
    for array in (ARRAY, np.zeros((64, 64, 64), np.uint8), ARRAY.astype(np.float64)):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"a.{kind}"), packed)
        np.testing.assert_array_equal(read_volume(tmp_path / f"a.{kind}").array, array)


def test_dicom_that_claims_more_than_it_holds(tmp_path):
    path = write_frames(tmp_path / "IM1", ARRAY)
    changed(path, Rows=65000, Columns=65000)
    with pytest.raises(InputError, match="missing, damaged or incomplete"):
        read_volume(path)
