"""Models in the module: listed, downloaded from a Hub on this machine, imported, removed; what is possible."""

import os
import re
from types import SimpleNamespace

import pytest

from rwkv_core.bundle.store import user_store
from rwkv_core.errors import CancelledError, CheckpointError, InputError
from rwkv_core.vocabulary import SegmentClass
from RWKVUNetSegmentLib.Segmentation import ModelDescription
from RWKVUNetSegmentLib.Segmentation.ModelsLogic import ModelsLogic

import bench
from core.bundle_files import bundle_files, write_files
from core.downloads import REPO, installed
from core.hub_server import HubServer
from module.logic_stand_ins import MODELS, model
from module.workers import LIMIT, newClient, ownSettings


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A store of the test's own, and no settings of whoever runs it."""
    for name in os.environ:
        if name.startswith("HF_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no token"))
    with ownSettings(tmp_path):
        yield user_store()


@pytest.fixture
def logic(home, tmp_path):
    logic = ModelsLogic(newClient(tmp_path, graceSeconds=LIMIT))
    yield logic
    logic.cleanup()


@pytest.fixture
def listed():
    """A logic whose list is known; nothing is asked."""
    logic = ModelsLogic(SimpleNamespace())
    logic.models = (*MODELS, model("colour", "Skin", "installed", "any", (), in_channels=3))
    return logic


@pytest.fixture
def hub(home, monkeypatch):
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


class Ends:
    """Takes how an action ends."""

    def __init__(self):
        self.ends = []

    @property
    def callbacks(self):
        return {"onDone": lambda: self.ends.append("done"), "onError": self.ends.append}

    def wait(self):
        bench.wait_until(lambda: self.ends, LIMIT)
        assert len(self.ends) == 1
        return self.ends[0]


def refresh(logic):
    end = Ends()
    logic.refresh(**end.callbacks)
    assert end.wait() == "done"


def test_download_and_removal_are_seen_in_the_list(logic, hub, home):
    commit = hub.add(REPO, bundle_files())
    refresh(logic)
    assert logic.find("default").state == "shipped"
    assert logic.store == home
    assert logic.find("small") is None
    changes, steps, end = [], [], Ends()
    logic.changed.connect(lambda: changes.append(logic.busy))
    logic.download("small", REPO, commit, onProgress=steps.append, **end.callbacks)
    assert logic.busy == "download"
    second = Ends()
    logic.remove("default", **second.callbacks)
    assert "Wait until the present download" in second.wait().message
    assert end.wait() == "done"
    assert steps[-1].done == steps[-1].total > 0
    assert logic.find("small").state == "installed"
    assert changes[0] == "download" and changes[-1] == ""
    end = Ends()
    logic.remove("small", **end.callbacks)
    assert end.wait() == "done"
    assert logic.find("small") is None
    assert installed(home) == []


def test_a_cancelled_download_leaves_no_model(logic, hub, home):
    commit = hub.add(REPO, bundle_files())
    hub.faults.cut_after = [400_000]  # one piece arrives, then the line breaks and the worker waits to try again
    end = Ends()
    logic.download("small", REPO, commit, onProgress=lambda step: step.done and logic.cancel(), **end.callbacks)
    assert isinstance(end.wait(), CancelledError)
    assert logic.busy == ""
    assert installed(home) == []


def test_import_of_a_folder_and_of_what_is_none(logic, home, tmp_path):
    end = Ends()
    logic.importModel(write_files(tmp_path / "ü软 run", id="mine"), **end.callbacks)
    assert end.wait() == "done"
    assert logic.find("mine").state == "installed"
    page, end = tmp_path / "page.pth", Ends()
    page.write_text("<!DOCTYPE html>")
    logic.importModel(page, "synapse-t", **end.callbacks)
    assert isinstance(end.wait(), CheckpointError)
    end = Ends()
    logic.remove("no-such-model", **end.callbacks)
    assert "no-such-model" in str(end.wait())
    assert installed(home) == ["mine"]


@pytest.mark.parametrize(
    ("which", "segments", "downloads", "removes"),
    [
        ("default", "", "is here already", "part of the extension"),
        ("organs", "must be downloaded first", "", "not here"),
        ("heart", "Import its file first", "Nobody has published", "not here"),
        ("mine", "", "is here already", ""),
        ("bad", "is damaged", "Nobody has published", ""),
        ("encoder", "starting point for training", "is here already", "part of the extension"),
        ("colour", "takes color images", "is here already", "not here"),
        ("unheard-of", "Choose a model", "Choose a model", "Choose a model"),
    ],
)
def test_what_can_be_done_with_a_model_and_why_not(listed, which, segments, downloads, removes):
    for (possible, reason), said in (
        (listed.canSegment(which), segments),
        (listed.canDownload(which), downloads),
        (listed.canRemove(which), removes),
    ):
        assert possible == (not said)
        assert said in reason
    listed.busy = "import"
    if which != "unheard-of":
        assert "Wait until" in listed.canDownload(which)[1]
        assert "Wait until" in listed.canRemove(which)[1]


def test_another_modality_is_warned_of(listed):
    assert listed.modalityWarning("default", "MR") == ""
    assert listed.modalityWarning("default", "") == ""
    assert listed.modalityWarning("mine", "CT") == ""
    assert listed.modalityWarning("default", "CT") == "Brain structures was made for MR, and this volume is CT."
    assert listed.canSegment("default", "CT") == (True, "")


def test_one_action_at_a_time(listed):
    listed.busy, end = "import", Ends()
    listed.remove("mine", **end.callbacks)
    assert not end.ends
    assert isinstance(end.wait(), InputError)


def test_the_two_sides_of_a_structure_are_told_together():
    classes = (
        SegmentClass(value=1, name="Left thalamus", color=(255, 0, 0), opposite=2),
        SegmentClass(value=2, name="Right thalamus", color=(0, 255, 0), opposite=1),
        SegmentClass(value=3, name="Brainstem", color=(0, 0, 255)),
    )
    text = ModelDescription.description(model("two", "Two", "shipped", "MR", classes))
    assert "T: fast" in text
    assert text.count("■") == 3 and "#ff0000" in text and "#00ff00" in text
    plain = re.sub("<[^>]*>", "", text)
    assert (
        "Structures ■&nbsp;Brainstem" in plain and "Left and right ■■&nbsp;Thalamus" in plain and "Right" not in plain
    )
