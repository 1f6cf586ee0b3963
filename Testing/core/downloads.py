"""What tests of downloads have in common: one bundle, "small", in one repository."""

import os

import pytest

from rwkv_core.bundle.hub import download
from rwkv_core.bundle.sources import Settings, find_source
from rwkv_core.errors import DownloadError

REPO = "me/small"


def use_store(patch, folder):
    """Leave none of the settings of whoever runs the tests, and make this the folder of the user's store."""
    for name in os.environ:
        if (name != "RWKV_UNET_CACHE" and name.startswith(("RWKV_UNET_", "HF_"))) or name.lower().endswith("_proxy"):
            patch.delenv(name)
    patch.setenv("HF_TOKEN_PATH", str(folder.parent / "no token"))
    patch.setenv("RWKV_UNET_HOME", str(folder))


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
