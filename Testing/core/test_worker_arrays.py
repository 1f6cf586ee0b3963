"""Hand-over of arrays in the private folder."""

import os

import numpy as np
import pytest

from rwkv_core.errors import InputError, StorageError
from rwkv_core.worker.arrays import PrivateFolder


@pytest.fixture
def folder(tmp_path):
    difficult = tmp_path / "ü软 x"
    difficult.mkdir()
    with PrivateFolder.create(difficult) as folder:
        yield folder


def kept(folder):
    return sorted(path.name for path in folder.path.iterdir())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", ">f4", "float16", "bool"])
def test_arrays_come_back(folder, dtype, order):
    array = np.asarray(np.arange(24).reshape(2, 3, 4), dtype, order=order)
    file = folder.put(array)
    mapped = folder.get(file)
    assert mapped.dtype == array.dtype
    assert np.array_equal(mapped, array)
    assert not mapped.flags.writeable
    del mapped
    assert np.array_equal(folder.take(file), array)
    assert kept(folder) == []


def test_a_view_is_written_without_the_rest(folder):
    file = folder.put(np.zeros((100, 100, 100), np.uint8)[10:12, ::2, 3:5])
    assert (folder.path / file).stat().st_size < 1000


@pytest.mark.skipif(os.name != "posix", reason="file modes of POSIX")
def test_nobody_else_may_enter(folder, tmp_path):
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.path.chmod(0o750)
    with pytest.raises(InputError, match="open to other users"):
        PrivateFolder(folder.path)
    with pytest.raises(InputError, match="not a folder"):
        PrivateFolder(tmp_path / "nothing")


@pytest.mark.parametrize(
    "file",
    ["../{}", "/etc/passwd", "C:\\x.npy", "", ".", "x.npy", "array-0123456789abcdef.npy/../../x", "{}\n", "{}\0"],
)
@pytest.mark.parametrize("verb", ["get", "take", "discard"])
def test_only_names_of_arrays_are_taken(folder, tmp_path, file, verb):
    outside = tmp_path / "array-0123456789abcdef.npy"
    np.save(outside, np.zeros(3))
    with pytest.raises(InputError, match="not the name of an array"):
        getattr(folder, verb)(file.format(outside.name))
    assert outside.exists()


def test_a_link_out_of_the_folder_is_not_followed(folder, tmp_path):
    np.save(tmp_path / "secret.npy", np.zeros(3))
    (folder.path / "array-0123456789abcdef.npy").symlink_to(tmp_path / "secret.npy")
    with pytest.raises(InputError, match="not the name of an array"):
        folder.get("array-0123456789abcdef.npy")


def test_damaged_arrays_are_explained(folder):
    file = folder.put(np.arange(1000))
    path = folder.path / file
    whole = path.read_bytes()
    objects = np.lib.format
    for damage in (whole[:500], whole[:40], b"", b"nonsense"):
        path.write_bytes(damage)
        with pytest.raises(InputError, match="cannot be read"):
            folder.get(file)
    with path.open("wb") as stream:
        objects.write_array(stream, np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        folder.get(file)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        folder.get(file)


def test_a_full_disk_leaves_nothing(folder, monkeypatch):
    def full(file, header):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(StorageError, match="No space left"):
        folder.put(np.zeros(3))
    assert kept(folder) == []


def test_an_array_is_written_piece_by_piece(folder):
    array = np.arange(60, dtype=np.int16).reshape(10, 2, 3)
    steps = folder.put_in_steps(array, step_bytes=36)
    shares = []
    with pytest.raises(StopIteration) as end:
        while True:
            shares.append(next(steps))
    assert shares == [0.3, 0.6, 0.9, 1.0]
    assert np.array_equal(folder.take(end.value.value), array)


def test_an_array_that_is_given_up_leaves_nothing(folder):
    steps = folder.put_in_steps(np.zeros((10, 10)), step_bytes=80)
    next(steps)
    assert len(kept(folder)) == 1
    steps.close()
    assert kept(folder) == []


def test_closing_removes_arrays_and_nothing_else(folder):
    folder.put(np.zeros(3))
    (folder.path / "array-0123456789abcdef.npy.part").write_bytes(b"half")
    (folder.path / "letter.txt").write_text("not ours")
    folder.close()
    assert kept(folder) == ["letter.txt"]
    (folder.path / "letter.txt").unlink()
    folder.close()
    folder.close()
    assert not folder.path.exists()
