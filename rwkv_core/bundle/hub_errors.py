"""What went wrong between this machine and a Hub, in words."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from rwkv_core.errors import DownloadError

_LOG_IN = "Log in with `hf auth login`, or set the environment variable HF_TOKEN."
_NETWORK = "Check the network and the proxy (HTTPS_PROXY), or import the model from a file."


@contextmanager
def in_words(repo: str, endpoint: str, revision: str = "", writing: bool = False) -> Iterator[None]:
    """Turn the errors of huggingface_hub and of its HTTP client into a `DownloadError`; others pass."""
    try:
        yield
    except Exception as error:
        for cause in _chain(error):
            explained = explain(cause, repo, endpoint, revision, writing)
            if explained is not None:
                raise explained from error
        raise


def explain(error: BaseException, repo: str, endpoint: str, revision: str, writing: bool) -> DownloadError | None:
    """Make the error for people; None when it is not one of the Hub or the network."""
    where = f"{repo} at {endpoint}"
    if isinstance(error, OfflineModeIsEnabled):
        return DownloadError(
            f"{where} is out of reach: offline mode is on (HF_HUB_OFFLINE is set).",
            hint="Unset HF_HUB_OFFLINE, or import the model from a file.",
        )
    if isinstance(error, HFValidationError):
        return DownloadError(f"{repo} cannot be a repository: {error}.")
    if isinstance(error, LocalTokenNotFoundError):
        return DownloadError("There is no access token for the Hub.", hint=_LOG_IN)
    if isinstance(error, HfHubHTTPError):
        return _of_answer(error, where, revision, writing)
    if is_transport(error):
        return _of_transport(error, endpoint)
    return None


def is_transport(error: BaseException) -> bool:
    """Tell whether the connection failed or broke, rather than that the server answered with an error."""
    return "TransportError" in _class_names(error)


def status_code(error: BaseException) -> int | None:
    """Give the HTTP status that a server answered with, if it did."""
    return int(error.response.status_code) if isinstance(error, HfHubHTTPError) else None


def _of_answer(error: HfHubHTTPError, where: str, revision: str, writing: bool) -> DownloadError:
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return DownloadError(
            f"The repository {where} is gated: its owners ask you to accept their conditions first.",
            hint=f"Accept them on its web page. {_LOG_IN}",
        )
    if isinstance(error, DisabledRepoError):
        return DownloadError(f"The repository {where} has been disabled by its server.")
    if isinstance(error, RevisionNotFoundError):
        return DownloadError(f"The repository {where} has no revision {revision!r}.", hint="Check the revision.")
    if isinstance(error, EntryNotFoundError):
        name = error.response.url.path.rsplit("/", 1)[-1]
        return DownloadError(f"The repository {where} holds no {name} at revision {revision}: it is no bundle.")
    if isinstance(error, RepositoryNotFoundError):
        return DownloadError(
            f"There is no repository {where}, or it is private.", hint=f"Check its name. If it is private: {_LOG_IN}"
        )
    if status in (401, 403):
        verb = "written" if writing else "read"
        return DownloadError(
            f"The repository {where} may not be {verb} with your access token, or without one (HTTP {status}).",
            hint=f"{_LOG_IN}{' The token needs the write permission.' if writing else ''}",
        )
    if status == 429:
        return DownloadError(f"{where} refuses further requests for now (HTTP 429).", hint="Try again later.")
    if status >= 500:
        return DownloadError(f"The server of {where} has a problem (HTTP {status}).", hint="Try again later.")
    said = error.server_message or f"HTTP {status}"
    return DownloadError(f"The request to {where} was refused: {said}.", hint="Check repository, revision, endpoint.")


def _of_transport(error: BaseException, endpoint: str) -> DownloadError:
    names, said = _class_names(error), str(error)
    lowered = said.lower()
    if "ProxyError" in names:
        return DownloadError(f"The proxy on the way to {endpoint} failed: {said}.", hint=_NETWORK)
    if "certificate" in lowered or "ssl" in lowered:
        return DownloadError(
            f"The certificate of {endpoint} was not accepted: {said}.",
            hint="Where a proxy replaces certificates, set SSL_CERT_FILE to its authority's file.",
        )
    if "TimeoutException" in names:
        return DownloadError(f"{endpoint} did not answer in time.", hint=_NETWORK)
    if any(part in lowered for part in ("getaddrinfo", "name or service", "nodename", "name resolution")):
        return DownloadError(f"The address of {endpoint} could not be found: {said}.", hint=_NETWORK)
    if "ConnectError" in names:
        return DownloadError(f"There is no connection to {endpoint}: {said}.", hint=_NETWORK)
    return DownloadError(
        f"The transfer from or to {endpoint} broke off: {said}.", hint="Try again; a download goes on where it stopped."
    )


def _class_names(error: BaseException) -> set[str]:
    # By name, because huggingface_hub 1 uses httpx and its later versions httpx2: the same classes, another package.
    return {cls.__name__ for cls in type(error).__mro__}


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__
