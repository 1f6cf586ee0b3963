"""Fixtures that several test files share: a store of one's own, a Hub on this machine, workers."""

import itertools

import huggingface_hub
import pytest

from rwkv_core.bundle import transfer
from rwkv_core.bundle.store import user_store

from core.bundle_files import bundle_files
from core.downloads import REPO, use_store
from core.hub_server import HubServer
from core.worker_client import WorkerClient
from core.worker_helpers import write_small


@pytest.fixture
def home(tmp_path, cache, monkeypatch):
    """A user's store in a folder with a difficult name, and none of the settings of whoever runs the tests."""
    use_store(monkeypatch, tmp_path / "ü软 x")
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


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a difficult name, in which all that is written lies."""
    folder = tmp_path_factory.mktemp("worker") / "ü软 x"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def model(place):
    """A small real model on disk, with random weights."""
    return write_small(place / "modèle", intensity={"method": "zscore"})


@pytest.fixture(scope="session")
def worker(tmp_path_factory):
    """The real program, shared by all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("worker")
    with WorkerClient(folder / "worker.log", temporary=folder) as client:
        yield client


@pytest.fixture
def new_client(place):
    """Starts workers that one test may ruin."""
    started, numbers = [], itertools.count()

    def start(program=None):
        client = WorkerClient(place / f"own-{next(numbers)}.log", program=program, temporary=place)
        started.append(client)
        return client

    yield start
    for client in started:
        client.kill()
