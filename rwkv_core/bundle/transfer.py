"""Bringing the files of one commit of a Hub repository to this machine, going on after every interruption."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but not marked so

from rwkv_core.bundle.hub_errors import is_transport, status_code
from rwkv_core.bundle.sources import Source
from rwkv_core.errors import CancelledError, DownloadError, StorageError

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

RETRY_WAITS = (1.0, 2.0, 4.0)
"""Seconds before each new attempt at a transfer that broke without having brought anything new."""

_TEMPORARY = (408, 416, 429, 500, 502, 503, 504)


class Transfer:
    """The files of one commit, into one folder, with one progress for all."""

    def __init__(
        self,
        source: Source,
        commit: str,
        folder: Path,
        total: int,
        progress: Progress | None,
        cancelled: Callable[[], bool],
    ):
        self.source, self.commit, self.folder, self.total = source, commit, folder, total
        self.progress, self.cancelled = progress or (lambda done, total: None), cancelled
        self.before = 0  # bytes of the files that are complete

    def fetch(self, name: str, size: int) -> None:
        """Bring the file to `size` bytes, going on from what is there. Tries again while that brings something new."""
        path, best, failures = self.folder / name, 0, 0
        while True:
            try:
                self._attempt(name, path, size)
                break
            except Exception as error:
                if not _is_temporary(error):
                    raise
                done = length(path)
                failures = 0 if done > best else failures + 1
                best = max(best, done)
                if failures > len(RETRY_WAITS):
                    raise
                if status_code(error) == 416:  # what is here is not a beginning of what is there
                    path.unlink(missing_ok=True)
                self._wait(RETRY_WAITS[max(failures, 1) - 1])
        self.before += size

    def _attempt(self, name: str, path: Path, size: int) -> None:
        done = length(path)
        if done > size:
            path.unlink()
            done = 0
        self._report(done)
        if done == size:
            return
        # Always the repository's own address: the client follows its redirects to a fresh, short-lived one, and sends
        # the access token to no other host.
        url = hf_hub_url(str(self.source.repo), name, revision=self.commit, endpoint=self.source.endpoint)
        headers = build_hf_headers(token=access_token(self.source)) | {"Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
        session = get_session()
        with session.stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            hf_raise_for_status(response)
            if done and response.status_code != 206:  # the server does not know ranges: from the beginning
                done = 0
            with writing(path), path.open("ab" if done else "wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    done += len(chunk)
                    self._report(min(done, size))
                    if done > size:
                        break
        if done > size:
            path.unlink()
        if done != size:
            raise _IncompleteError(f"{name} of {self.source.repo} arrived incomplete: {done:,} of {size:,} bytes.")

    def _report(self, done: int) -> None:
        if self.cancelled():
            raise CancelledError
        self.progress(self.before + done, self.total)

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.cancelled():
                raise CancelledError
            time.sleep(min(left, 0.1))


class _IncompleteError(DownloadError):
    """The server's answer ended early, without an error."""

    def __init__(self, message: str):
        super().__init__(message, "Try again; if it stays so, the file at the server is damaged.")


def _is_temporary(error: Exception) -> bool:
    return is_transport(error) or status_code(error) in _TEMPORARY or isinstance(error, _IncompleteError)


def access_token(source: Source) -> bool | None:
    """Choose what huggingface_hub is told: None, take the token from HF_TOKEN or the login; False, send none."""
    return None if source.trusted else False


def length(path: Path) -> int:
    """Count the bytes of a file that may not exist yet."""
    return path.stat().st_size if path.exists() else 0


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong while `path` is written into a `StorageError`."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} could not be written: {error}.", hint="Check the free space and permissions; then try again."
        ) from None
