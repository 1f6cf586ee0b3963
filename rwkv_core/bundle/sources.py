"""Where on the Hub a bundle is: command line before environment before catalogue.

For a bundle `synapse-b` the environment variables are RWKV_UNET_REPO_SYNAPSE_B ("owner/name" or "owner/name@revision"),
RWKV_UNET_REVISION_SYNAPSE_B, RWKV_UNET_ENDPOINT_SYNAPSE_B and RWKV_UNET_SHA256_SYNAPSE_B; HF_ENDPOINT holds for all.
"""

import os
import re
from dataclasses import dataclass

from rwkv_core.bundle.catalogue import Catalogue, Entry
from rwkv_core.errors import BundleError, DownloadError, InputError, Remedy

HUB = "https://huggingface.co"

_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Settings:
    """What one place (command line, environment, catalogue) says; None where it says nothing."""

    repo: str | None = None
    revision: str | None = None
    endpoint: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """Where one bundle is to be fetched from.

    Attributes:
        endpoint: the server, without a slash at its end.
        sha256: of the weights file, if known.
        trusted: the server was chosen by the user or is the Hub itself, so the user's access token may go there.
    """

    repo: str | None
    revision: str | None
    endpoint: str
    sha256: str | None
    trusted: bool

    @property
    def complete(self) -> bool:
        """Tell whether there is something to download."""
        return self.repo is not None and self.revision is not None

    @property
    def pinned(self) -> bool:
        """Tell whether the revision is a commit, whose content can never change."""
        return self.revision is not None and bool(_COMMIT.fullmatch(self.revision))

    def require(self, bundle_id: str) -> tuple[str, str]:
        """Give repository and revision.

        Raises:
            DownloadError: when one of them is not set.
        """
        variable = variable_name("REPO", bundle_id)
        if self.repo is None:
            raise DownloadError(
                f"{bundle_id} is not published yet.",
                hint=f"Import it from a file, or set its repository: {variable}=owner/name@COMMIT.",
                remedy=Remedy("import model", bundle_id),
            )
        if self.revision is None:
            raise DownloadError(
                f"{bundle_id} has the repository {self.repo}, but no revision of it is set.",
                hint=f"Name the commit: {variable}={self.repo}@COMMIT.",
                remedy=Remedy("name revision"),
            )
        return self.repo, self.revision


def find_source(bundle_id: str, entry: Entry | None, command_line: Settings | None = None) -> Source:
    """Put the three places together; what says where a file is outdoes what is said of another place's file.

    A place that names a repository makes the revision, hash and endpoint of those after it void, and one that names a
    revision their hash.

    Raises:
        InputError: when a setting is malformed, naming it.
    """
    catalogue = Settings(entry.repo, entry.revision, entry.endpoint, entry.sha256) if entry else Settings()
    environment = Settings(*(os.environ.get(variable_name(what, bundle_id)) or None for what in _FIELDS))
    repo: str | None = None
    revision: str | None = None
    sha256: str | None = None
    for place, settings in (
        (f"the catalogue's entry {bundle_id}", catalogue),
        (f"the environment variables of {bundle_id}", environment),
        ("the command line", command_line or Settings()),
    ):
        named = _checked(settings, place)
        if named.repo is not None:
            repo, revision, sha256 = named.repo, None, None
        if named.revision is not None:
            revision, sha256 = named.revision, None
        sha256 = named.sha256 or sha256
    chosen = (command_line and command_line.endpoint) or environment.endpoint or os.environ.get("HF_ENDPOINT")
    own_repo = bool((command_line and command_line.repo) or environment.repo)
    endpoint = checked_endpoint(chosen or (None if own_repo else catalogue.endpoint))
    return Source(repo, revision, endpoint, sha256, trusted=bool(chosen) or endpoint == HUB)


def source_to_download(bundle_id: str, catalogue: Catalogue, command_line: Settings) -> Source:
    """Find where a download that a person asked for comes from.

    Raises:
        InputError: when the bundle is shipped and nothing else was asked for, or a setting is malformed.
        BundleError: when neither the catalogue nor the person knows the bundle.
    """
    entry = catalogue.find(bundle_id)
    if entry is not None and entry.shipped and command_line == Settings():
        raise InputError(f"{bundle_id} is shipped with the installation; there is nothing to download.")
    source = find_source(bundle_id, entry, command_line)
    if entry is None and source.repo is None:
        raise BundleError(
            f"There is no model {bundle_id!r} in the catalogue.",
            hint="For another model, name its repository and commit.",
            remedy=Remedy("name repository"),
        )
    return source


_FIELDS = ("REPO", "REVISION", "ENDPOINT", "SHA256")


def variable_name(what: str, bundle_id: str) -> str:
    """Name the environment variable of one setting, e.g. RWKV_UNET_REPO_SYNAPSE_B."""
    return f"RWKV_UNET_{what}_{re.sub('[^A-Z0-9]', '_', bundle_id.upper())}"


def checked_endpoint(endpoint: str | None) -> str:
    """Give `endpoint`, else HF_ENDPOINT, else the Hub; without a slash at its end.

    Raises:
        InputError: when it is no http or https address.
    """
    endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", endpoint):
        raise InputError(f"The endpoint {endpoint!r} is no address.", hint="It must look like https://huggingface.co.")
    return endpoint


def checked_repo(repo: str, place: str) -> str:
    """Give `repo` if it has the form owner/name.

    Raises:
        InputError: naming `place`, where it comes from.
    """
    if not _REPO.fullmatch(repo):
        raise InputError(f"The repository {repo!r} of {place} must have the form owner/name.")
    return repo


def _checked(settings: Settings, place: str) -> Settings:
    repo, revision, sha256 = settings.repo, settings.revision, settings.sha256
    if repo is not None:
        repo, _, at = repo.partition("@")
        checked_repo(repo, place)
        revision = revision or at or None
    if sha256 is not None:
        sha256 = sha256.lower()
        if not _SHA256.fullmatch(sha256):
            raise InputError(f"The SHA-256 {sha256!r} of {place} must have 64 hexadecimal digits.")
    return Settings(repo, revision, settings.endpoint, sha256)
