"""Fixtures of tests with real workers: a folder with a difficult name, a small model, a worker that stays warm."""

import pytest

from core.worker_stand_ins import PROGRAM
from module.workers import newClient, ownSettings, smallModel, warm


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a difficult name, in which settings, models and files of the tests lie."""
    folder = tmp_path_factory.mktemp("place") / "ü软 x"
    folder.mkdir()
    with ownSettings(folder):
        yield folder


@pytest.fixture(scope="module")
def model(place):
    """A small real model on disk, whose random weights give several classes."""
    return smallModel(place / "modèle", lively=True)


@pytest.fixture(scope="module")
def shared(place, model):
    """A worker that stays over the tests that do it no harm."""
    client = newClient(place, PROGRAM, graceSeconds=60)
    warm(client, model)
    yield client
    client.stop()
