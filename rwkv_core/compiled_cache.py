"""Compiled networks on disk: files that may be deleted at any time, and are not trusted to be whole."""

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path

import platformdirs

_LOG = logging.getLogger(__name__)
_LIMIT_BYTES = 600_000_000
_DIGEST_BYTES = 32
_TOLD: set[Path] = set()
"""Folders that could not be written; said once."""


def cache_folder() -> Path:
    """Give RWKV_UNET_CACHE, or the user's cache folder of this platform."""
    chosen = os.environ.get("RWKV_UNET_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("rwkv-unet", appauthor=False)


class CompiledCache:
    """Named pieces of bytes by key. A folder that cannot be read or written is a cache that holds nothing.

    Args:
        kind: subfolder, one per format.
    """

    def __init__(self, kind: str):
        self._folder = cache_folder() / kind

    def load(self, key: str) -> dict[str, bytes] | None:
        """Read what was saved; None when it is not there or damaged."""
        path = self._path(key)
        try:
            content = path.read_bytes()
            os.utime(path)  # the least recently used go first
        except OSError:
            return None
        body = memoryview(content)[_DIGEST_BYTES:]
        if hashlib.sha256(body).digest() != content[:_DIGEST_BYTES]:
            self.forget(key)
            return None
        start = content.index(b"\n", _DIGEST_BYTES) + 1
        pieces = {}
        for name, length in json.loads(content[_DIGEST_BYTES:start]).items():
            pieces[name], start = content[start : start + length], start + length
        return pieces

    def save(self, key: str, pieces: dict[str, bytes]) -> None:
        """Write all or nothing, then remove the least recently used files above the limit."""
        index = json.dumps({name: len(piece) for name, piece in pieces.items()}).encode()
        body = b"\n".join([index, b"".join(pieces.values())])
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".part", delete=False) as file:
                part = Path(file.name)
                try:
                    file.write(hashlib.sha256(body).digest())
                    file.write(body)
                    file.close()
                    part.replace(self._path(key))
                finally:
                    part.unlink(missing_ok=True)
            self._trim()
        except OSError as error:
            if self._folder not in _TOLD:
                _TOLD.add(self._folder)
                _LOG.warning(
                    "Compiled networks cannot be kept, so every start takes seconds longer: %s. The environment "
                    "variable RWKV_UNET_CACHE names another folder for them.",
                    error,
                )

    def forget(self, key: str) -> None:
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            _LOG.info("the damaged compiled network stays: %s", error)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.blob"

    def _trim(self) -> None:
        files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in self._folder.glob("*.blob"))
        excess = sum(size for _, size, _ in files) - _LIMIT_BYTES
        for _, size, path in files[:-1]:
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size
