"""Writing files whole or not at all; reading JSON that anybody may have written."""

import errno
import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rwkv_core.errors import StorageError

STORAGE_HINT = "Check the free space and the permissions of the folder."


def read_json(path: Path) -> Any:
    """Give the value in a JSON file.

    Raises:
        OSError: when it cannot be read.
        ValueError: when it is no JSON in UTF-8, or nested without end.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path`, of the same name, to be written; it takes the place of `path` when that went well.

    The folder is made if there is none. When the block fails, nothing is left, and an older file is untouched.

    Raises:
        StorageError: when the disk is full, or the folder is not writable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".rwkv-unet-") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            temporary.replace(path)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error)).lower()
        raise StorageError(f"{path} cannot be written: {reason}.", hint=STORAGE_HINT) from None


def sha256_of(path: Path) -> str:
    """Hash a file's contents; gives hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
