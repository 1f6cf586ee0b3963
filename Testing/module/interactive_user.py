"""What the tests of interactive work share: the panel over a stand-in worker (labelled so), and a user's moves."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import slicer

from rwkv_core.vocabulary import PostProcessing, SliceIndex
from RWKVUNetSegmentLib.Scene.SliceViews import goTo
from RWKVUNetSegmentLib.Segmentation.ImportCheck import ImportCheck
from RWKVUNetSegmentLib.Segmentation.InstallationLogic import InstallationLogic
from RWKVUNetSegmentLib.Worker import WorkerClient

import bench
from module.panel import MODULE
from module.stand_in_starter import starter

SHAPE = (10, 24, 32)
SPACING = (1.0, 1.5, 4.0)


def array():
    """Values rise from left to right and from slice to slice; two bright blocks."""
    k, j, i = np.indices(SHAPE)
    values = (4 * i + 3 * j + 6 * k).astype(np.int16)
    values[2:8, 4:10, 4:12] += 150
    return values


@pytest.fixture(scope="session")
def stand_in_program():
    with starter() as program:
        yield program


@pytest.fixture(name="stand_in")
def stand_in_fixture(stand_in_program, tmp_path, monkeypatch):
    """Workers are stand-ins; gives the folder of their signs."""
    monkeypatch.setattr(WorkerClient, "worker_program", lambda python: stand_in_program)
    monkeypatch.setenv("RWKV_STAND_IN", str(tmp_path))
    monkeypatch.setattr(InstallationLogic, "isValid", lambda self: (True, ""))
    monkeypatch.setattr(ImportCheck, "passed", lambda self, versions: True)  # else its processes are counted with ours
    return tmp_path


@pytest.fixture(name="user")
def user_fixture(stand_in, open_module):
    """The module open over a volume; see `User`."""
    if (layout := slicer.app.layoutManager()) is not None:
        for name, orientation in (("Red", "Axial"), ("Green", "Coronal"), ("Yellow", "Sagittal")):
            layout.sliceWidget(name).mrmlSliceNode().SetOrientation(orientation)
    made = User(open_module(MODULE), stand_in)
    bench.wait_until(lambda: made.logic.models.models)
    made.load()
    return made


class User(SimpleNamespace):
    """Does what a user does, and looks where a user looks."""

    def __init__(self, opened, folder):
        super().__init__(opened=opened, folder=folder)

    @property
    def logic(self):
        return self.opened.logic

    @property
    def interactive(self):
        return self.logic.interactive

    @property
    def ui(self):
        panel = next(panel for panel in self.opened.widget.panels if type(panel).__name__ == "InteractivePanel")
        return panel.own

    @property
    def state(self):
        return self.opened.widget._parameterNode

    @property
    def result(self):
        """The chosen segmentation."""
        return self.state.outputSegmentation

    @property
    def preview(self):
        return self.interactive.preview.node

    def load(self, name="scan"):
        self.volume = slicer.util.addVolumeFromArray(array(), name=name)
        self.volume.SetSpacing(*SPACING)
        slicer.util.setSliceViewerLayers(background=self.volume, fit=True)
        bench.process_events()
        self.state.inputVolume = self.volume
        bench.process_events()
        return self.volume

    def view(self, name="Red"):
        return slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode()

    def scroll(self, index, axis="K"):
        goTo(self.volume, SliceIndex(axis=axis, index=index))

    def rest(self):
        """Wait until what is looked at is shown."""
        bench.wait_until(lambda: not self.interactive.preview.busy, what=lambda: self.ui.previewStatusLabel.text)
        bench.process_events()

    def segment(self):
        """Press Segment; wait for the result."""
        ui = self.opened.widget.ui
        ui.segmentButton.click()
        bench.wait_until(lambda: ui.segmentButton.text == "Segment", what=lambda: ui.statusLabel.text)
        bench.process_events()
        assert ui.statusLabel.text.startswith("Done"), ui.statusLabel.text

    def settle(self):
        """Wait until no control moves and nothing goes on."""
        panel = next(panel for panel in self.opened.widget.panels if type(panel).__name__ == "InteractivePanel")
        timers = [part._timer for part in panel.parts if hasattr(part, "_timer")]
        bench.wait_until(
            lambda: not self.interactive.result.busy and not any(timer.active for timer in timers),
            what=lambda: self.interactive.result.busy,
        )
        bench.process_events()

    def process(self, **processing):
        self.interactive.result.refine(PostProcessing(**processing))
        self.settle()

    def spread(self, accept=True):
        assert self.ui.spreadButton.enabled, self.ui.spreadButton.toolTip
        self.ui.spreadButton.click()
        self.settle()
        if accept:
            assert self.ui.acceptSpreadButton.enabled, self.ui.resultStatusLabel.text
            self.ui.acceptSpreadButton.click()
            bench.process_events()

    def turn_on(self):
        self.ui.previewCheckBox.click()
        self.rest()

    def labels(self, node):
        """(K, J, I) of the volume: the number of each segment, from 1, in the order Body, Bone, others."""
        found = np.zeros(SHAPE, np.uint8)
        segmentation = node.GetSegmentation()
        for number, identifier in enumerate(segmentation.GetSegmentIDs(), 1):
            found[slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, self.volume) > 0] = number
        return found

    def asked(self, kind):
        """How many requests of this type the workers got."""
        return len(self.requests(kind))

    def requests(self, kind):
        """The requests of this type that the workers got, as dicts."""
        file = self.folder / "asked.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [message for message in map(json.loads, lines) if message["type"] == kind]

    def expected(self, shift=0):
        """What the stand-in answers."""
        chances = array() / 333
        found = np.zeros(SHAPE, np.uint8)
        found[chances > (100 + shift) / 333] = 1
        found[chances > (200 + shift) / 333] = 2
        return found
