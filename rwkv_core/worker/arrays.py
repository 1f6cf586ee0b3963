"""Hand-over of arrays: .npy files in a folder that only the two ends can enter, mapped into memory rather than read.

The client makes the folder and removes it; the worker writes its results there and nowhere else. A file is complete
when it bears its name: it is written under another one and then renamed. Names are plain, never paths.

A mapped file cannot be deleted on Windows. It is mapped as long as any array looks into it, so drop such arrays before
`discard` or `close`.
"""

import os
import re
import secrets
import stat
import tempfile
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rwkv_core.errors import InputError, StorageError
from rwkv_core.worker.protocol import Geometry, VolumeFile

if TYPE_CHECKING:
    from rwkv_core.volume import Volume

Array = npt.NDArray[Any]

PREFIX = "rwkv-unet-"

_NAME = re.compile(r"array-[0-9a-f]{16}\.npy")
_PARTIAL = ".part"


class PrivateFolder:
    """The folder. `create` it in the client, `PrivateFolder(path)` in the worker; the client's is a context manager.

    Attributes:
        path: absolute.

    Raises:
        InputError: when the path is no folder, or others may enter it.
    """

    def __init__(self, path: Path):
        self.path = path.resolve()
        if not self.path.is_dir():
            raise InputError(f"{path} is not a folder.")
        if os.name == "posix":
            status = self.path.stat()
            if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
                raise InputError(
                    f"The folder {path} is open to other users; arrays would be too.",
                    hint="Give a folder of your own with mode 0700.",
                )

    @classmethod
    def create(cls, parent: Path | None = None) -> "PrivateFolder":
        """Make a new folder with mode 0700 (on Windows, with the permissions of `parent`).

        Args:
            parent: None for the system's folder of temporary files.

        Raises:
            StorageError: when it cannot be made.
        """
        try:
            return cls(Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)))
        except OSError as error:
            raise StorageError(
                f"No temporary folder could be made: {error}.", hint="Check the free space and permissions."
            ) from None

    def put(self, array: Array) -> str:
        """Write an array; gives the file's name.

        Raises:
            StorageError: when the disk is full or not writable; nothing is left behind.
        """
        steps = self.put_in_steps(array)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return str(end.value)

    def put_in_steps(self, array: Array, step_bytes: int = 1 << 23) -> Generator[float, None, str]:
        """Write as `put` does, for callers that must not be held up: a generator that writes piece by piece.

        It yields the share that is written, and returns the file's name. Closing it early leaves nothing behind.

        Args:
            array: with at least one axis; must not change meanwhile.
            step_bytes: size of a piece, at least one row of the first axis.

        Raises:
            StorageError: as `put`.
        """
        name = _new_name()
        partial = self.path / (name + _PARTIAL)
        rows = max(1, step_bytes * len(array) // max(array.nbytes, 1))
        complete = False
        try:
            with partial.open("xb") as file:
                descr = np.lib.format.dtype_to_descr(array.dtype)
                header = {"descr": descr, "fortran_order": False, "shape": array.shape}
                np.lib.format.write_array_header_1_0(file, header)
                for first in range(0, len(array), rows):
                    file.write(np.ascontiguousarray(array[first : first + rows]).data)
                    yield min(first + rows, len(array)) / len(array)
            partial.replace(self.path / name)
            complete = True
        except OSError as error:
            raise StorageError(
                f"An array of {array.nbytes / 1e6:.1f} MB could not be written to {self.path}: {error}.",
                hint="Free some space on that disk, or set the folder of temporary files (TMPDIR or TEMP) to another.",
            ) from None
        finally:
            if not complete:
                partial.unlink(missing_ok=True)
        return name

    def get(self, name: str) -> Array:
        """Give a file's array, mapped and read-only: its voxels are read from disk when they are used.

        Raises:
            InputError: when `name` is not one of this folder's, or the file is missing, damaged or of Python objects.
        """
        path = self._locate(name)
        try:
            return np.asarray(np.lib.format.open_memmap(path, "r"))
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"The array {name} cannot be read: {error}.") from None

    def volume(self, given: VolumeFile) -> "Volume":
        """Give a volume whose array is mapped. Raises as `get` and `Volume`."""
        from rwkv_core.volume import Volume

        return Volume(self.get(given.file), np.array(given.ijk_to_ras), given.name, given.modality)

    def state(self, name: str) -> tuple[str, int, int]:
        """Tell a file from what was there under its name before."""
        found = self._locate(name).stat()
        return name, found.st_mtime_ns, found.st_size

    def take(self, name: str) -> Array:
        """Give a file's array, copied into memory; the file is deleted. Raises as `get`."""
        array = np.array(self.get(name))
        self.discard(name)
        return array

    def discard(self, name: str) -> None:
        """Delete a file, if it is there; one that Windows holds stays until `close`.

        Raises:
            InputError: when `name` is not one of this folder's.
        """
        _remove(self._locate(name))

    def close(self) -> None:
        """Delete the arrays, and the folder unless somebody put something else into it."""
        try:
            for path in self.path.iterdir():
                if _NAME.fullmatch(path.name.removesuffix(_PARTIAL)):
                    _remove(path)
            self.path.rmdir()
        except OSError:
            pass  # gone already, or held by another program: the system's cleaner has it then

    def __enter__(self) -> "PrivateFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _locate(self, name: str) -> Path:
        path = self.path / name
        if not _NAME.fullmatch(name) or path.is_symlink():
            raise InputError(f"{name!r} is not the name of an array in the worker's folder.")
        return path


def geometry_of(ijk_to_ras: npt.NDArray[np.float64]) -> Geometry:
    """Give a 4 x 4 matrix as messages carry it."""
    a, b, c, d = (tuple(map(float, row)) for row in np.asarray(ijk_to_ras).reshape(4, 4))
    return a, b, c, d  # type: ignore[return-value]  # mypy cannot count the four columns


def _new_name() -> str:
    return f"array-{secrets.token_hex(8)}.npy"


def _remove(path: Path) -> None:
    with suppress(PermissionError):  # Windows, while it is mapped
        path.unlink(missing_ok=True)
