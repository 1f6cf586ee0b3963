"""Fixtures that several test files share: a store of one's own, and a Hub on this machine."""

import os

import huggingface_hub
import pytest

from rwkv_core import transfer
from rwkv_core.store import user_store

from core.bundle_files import bundle_files
from core.downloads import REPO
from core.hub_server import HubServer


@pytest.fixture(scope="session")
def compiled_networks(tmp_path_factory):
    """Where the tests keep compiled networks."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(autouse=True)
def cache(compiled_networks, monkeypatch):
    """No test reads or fills the cache of whoever runs it."""
    monkeypatch.setenv("RWKV_UNET_CACHE", str(compiled_networks))
    return compiled_networks


@pytest.fixture
def home(tmp_path, cache, monkeypatch):
    """A user's store in a folder with a difficult name, and none of the settings of whoever runs the tests."""
    for name in os.environ:
        if (name != "RWKV_UNET_CACHE" and name.startswith(("RWKV_UNET_", "HF_"))) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("RWKV_UNET_HOME", str(tmp_path / "ü软 x"))
    return user_store()


@pytest.fixture
def hub(home, monkeypatch):
    """A running Hub, named by HF_ENDPOINT, that is not waited for between attempts."""
    monkeypatch.setattr(transfer, "RETRY_WAITS", (0, 0, 0))
    huggingface_hub.close_session()
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server
        huggingface_hub.close_session()


@pytest.fixture
def commit(hub):
    """The commit of a bundle in the Hub's repository `REPO`."""
    return hub.add(REPO, {**bundle_files(), "README.md": b"card"})
