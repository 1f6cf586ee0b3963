"""500 random actions of a user, over a stand-in worker that answers at once: the scene stays consistent.

Most actions come while something else goes on. Every 20 actions all comes to rest, and the scene is looked at.
"""

import random

import numpy as np
import pytest
import slicer

from RWKVUNetSegmentLib.VerifiedSlices import verifiedSlices

import bench
from module.interactive_user import SHAPE, stand_in_fixture, user_fixture  # noqa: F401 (fixtures)
from module.test_interactive import edit

ACTIONS, REST = 500, 20


class Walk:
    def __init__(self, user, seed):
        self.user, self.random = user, random.Random(seed)
        self.verified = {}
        self.done = set()

    def click(self, *names):
        name = self.random.choice(names)
        button = getattr(self.user.ui, name)
        if button.enabled:
            if name in ("undoButton", "verifiedButton"):  # the user may change verified slices so
                self.verified.clear()
            button.click()
            self.done.add(name)

    def press(self):
        if self.user.opened.widget.ui.segmentButton.enabled:
            self.user.opened.widget.ui.segmentButton.click()  # or Cancel
            self.done.add("segment")

    def scroll(self):
        axis = self.random.choice("KKKJI")
        self.user.scroll(self.random.randrange(SHAPE["KJI".index(axis)]), axis)

    def slide(self):
        ui = self.user.ui
        if ui.thresholdSlider.enabled:
            ui.thresholdSlider.value = self.random.choice((0.1, 0.3, 0.5, 0.7))
            self.done.add("slide")

    def edit(self):
        node = self.user.result
        if node is None or node.GetSegmentation().GetNumberOfSegments() == 0:
            return
        index = self.random.randrange(SHAPE[0])
        if index not in {one.index for one in verifiedSlices(node)}:
            edit(self.user, index, self.random.choice(("Body", "Bone")))
            self.done.add("edit")

    def adapt(self):
        self.user.ui.adaptNameLineEdit.text = f"model{self.random.randrange(10**6)}"
        self.click("adaptButton")

    def choose_model(self):
        self.user.state.model = self.random.choice(("default", "axial"))

    def kill(self):
        self.user.logic.segmentation.client.kill("The walk ended it.")
        self.done.add("kill")

    def remove(self):
        """The user deletes a node."""
        node = self.random.choice([self.user.preview, self.user.result, self.user.interactive.uncertainty.node])
        if node is not None:
            slicer.mrmlScene.RemoveNode(node)
            self.done.add("remove")

    def step(self):
        actions = [
            (12, self.scroll), (4, self.slide), (4, self.edit), (2, self.press), (2, self.adapt),
            (1, self.choose_model), (0.3, self.kill), (0.3, self.remove),
            (3, lambda: self.click("previewCheckBox", "acceptSliceButton", "acceptAllButton", "discardButton")),
            (3, lambda: self.click("verifiedButton", "uncertainButton", "uncertaintyCheckBox")),
            (3, lambda: self.click("classOnCheckBox", "thresholdCheckBox", "resetButton", "undoButton")),
            (2, lambda: self.click("compareButton", "revertButton", "propagateButton", "correctedButton")),
        ]  # fmt: skip
        self.random.choices([one for _, one in actions], [weight for weight, _ in actions])[0]()
        bench.process_events()

    def rest(self):
        user, ui = self.user, self.user.opened.widget.ui
        preview = user.interactive.preview
        bench.wait_until(lambda: ui.segmentButton.text == "Segment")
        user.settle()  # a control that comes to rest lets the preview begin again
        bench.wait_until(lambda: not preview.busy, what=lambda: preview.message)

    def look(self):
        user, interactive = self.user, self.user.interactive
        segmentations = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        assert sum(node.GetName().endswith("preview") for node in segmentations) <= 1
        assert sum(" before" in node.GetName() for node in segmentations) == int(interactive.adaptation.comparing)
        assert len(slicer.util.getNodesByClass("vtkMRMLSegmentEditorNode")) <= 1
        assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) <= 2
        for node in segmentations:
            segmentation = node.GetSegmentation()
            names = [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]
            assert len(names) == len(set(names)), names
            masks = [
                slicer.util.arrayFromSegmentBinaryLabelmap(node, one, user.volume) > 0
                for one in segmentation.GetSegmentIDs()
            ]
            assert not masks or np.sum(masks, axis=0).max() <= 1, "segments overlap"
        assert not interactive.result.busy and not interactive.adaptation.running
        for one in verifiedSlices(user.result):
            if one.axis == "K":  # edits cross the others
                labels = user.labels(user.result)[one.index]
                before = self.verified.setdefault((user.result.GetID(), one), labels)
                assert np.array_equal(labels, before), f"{one} was verified, and has changed"
        session = user.logic.segmentation.client.session
        if session is not None:
            left = [path for path in session.folder.path.iterdir() if path.suffix == ".npy"]
            assert len(left) <= 1, "arrays are left in the worker's folder"  # the volume, for the next preview


@pytest.mark.parametrize("seed", [1])
def test_a_random_walk_leaves_the_scene_consistent(user, seed):
    walk = Walk(user, seed)
    for number in range(1, ACTIONS + 1):
        walk.step()
        if number % REST == 0:
            walk.rest()
            walk.look()
    assert {"segment", "edit", "adaptButton", "previewCheckBox", "verifiedButton", "undoButton"} <= walk.done, walk.done
    user.segment()
    user.turn_on() if not user.interactive.preview.on else user.rest()
