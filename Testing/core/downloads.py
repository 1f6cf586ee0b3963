"""What tests of downloads have in common: one bundle, "small", in one repository."""

import pytest

from rwkv_core.bundle.hub import download
from rwkv_core.bundle.sources import Settings, find_source
from rwkv_core.errors import DownloadError

REPO = "me/small"


def source_of(commit, repo=REPO, **settings):
    """As if named on the command line."""
    return find_source("small", None, Settings(repo=repo, revision=commit, **settings))


def refused(source, error=DownloadError, **options):
    """The error that the download ends with."""
    with pytest.raises(error) as caught:
        download("small", source, **options)
    return caught.value


def installed(home):
    """Names of what is visible in the store."""
    return sorted(path.name for path in home.glob("[!.]*")) if home.exists() else []
