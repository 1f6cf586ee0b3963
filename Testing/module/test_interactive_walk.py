"""500 random actions of a user, over a stand-in worker that answers at once: the scene stays consistent.

Most actions come while something else goes on. Every 20 actions all comes to rest, and the scene is looked at. That no
process is left is looked at after every test of the module.
"""

import random

import numpy as np
import pytest
import slicer
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest

from rwkv_core.errors import InputError
from RWKVUNetSegmentLib.Interactive.Propagation import limitsOf
from RWKVUNetSegmentLib.Panels.ParameterNode import Region
from RWKVUNetSegmentLib.Scene.SliceViews import sliceOf
from RWKVUNetSegmentLib.Scene.VerifiedSlices import verifiedSlices

import bench
from module.interactive_user import SHAPE, SPACING
from module.pointing_user import PointingUser
from module.test_interactive import edit

ACTIONS, REST = 500, 20
MISSED = 8
"""Controls that may not have had their turn: where answers come late, a button is not enabled in time."""
SLIDERS = {"thresholdSlider": (0.1, 0.3, 0.5, 0.7), "acrossSlider": (0.0, 2.0), "smallestSpinBox": (0.0, 50.0)}
CLICKS = (
    "previewCheckBox", "acceptSliceButton", "acceptAllButton", "discardButton", "verifiedButton", "uncertainButton",
    "uncertaintyCheckBox", "planesCheckBox", "flipsCheckBox", "classOnCheckBox", "thresholdCheckBox",
    "largestCheckBox", "holesCheckBox", "keepAtButton", "resetButton", "undoButton", "spreadButton", "useSliceButton",
    "spreadSlicesButton", "acceptSpreadButton", "refuseSpreadButton", "undoSpreadButton", "nextSliceButton",
)  # fmt: skip
"""The buttons of the section; nearly all must have been pressed in the end."""
POINT_CLICKS = (
    "undoPromptButton", "clearPromptsButton", "acceptPromptsButton", "newSegmentButton", "propagateButton",
    "propagateUpButton", "propagateDownButton", "propagateToButton", "paintedCheckBox",
)  # fmt: skip
POINTS = ("click", "box", "scribble", "drag", "key", *POINT_CLICKS)
KEYS = (Qt.Key_P, Qt.Key_B, Qt.Key_S, Qt.Key_T, Qt.Key_E, Qt.Key_N, Qt.Key_R, Qt.Key_V, Qt.Key_Return, Qt.Key_Escape)


class Walk:
    def __init__(self, user, seed):
        self.user, self.random = user, random.Random(seed)
        self.verified = {}
        self.done = set()
        self.pointing = PointingUser(user)

    def voxel(self):
        k, j, i = (self.random.randrange(size) for size in SHAPE)
        return i, j, k

    def point(self, tool=""):
        """A click, a box or a scribble somewhere in the slice that the axial view shows, or on a marker."""
        pointing, logic = self.pointing, self.pointing.logic
        if not logic.tool:
            button = f"{tool or self.random.choice(('point', 'box', 'scribble'))}Button"
            if getattr(pointing.ui, button).enabled:
                getattr(pointing.ui, button).click()
            return
        if tool and logic.tool != tool:
            getattr(pointing.ui, f"{tool}Button").click()
        view = pointing.view("Red")
        places = [place for kind, _, place in pointing.markers if kind == "FiducialNode"]
        first = self.voxel()
        here = view.mrmlSliceNode().GetSliceOffset()
        places = [place for place in places if abs(place[2] - here) < SPACING[2] / 2]
        if places and self.random.random() < 0.6:
            first = [at / step for at, step in zip(self.random.choice(places), SPACING, strict=True)]
            self.done.add("drag")
        last = self.voxel() if logic.tool != "point" or self.random.random() < 0.3 else first
        view.renderWindow().Render()
        pointing.moveTo(view, pointing.at(view, first))
        QTest.mousePress(view, Qt.LeftButton, Qt.NoModifier, pointing.at(view, first))
        pointing.moveTo(view, pointing.at(view, last), Qt.LeftButton)
        QTest.mouseRelease(view, Qt.LeftButton, Qt.NoModifier, pointing.at(view, last))
        self.done.add({"point": "click"}.get(logic.tool, logic.tool))

    def point_key(self):
        view, undo = self.pointing.view("Red"), self.random.random() < 0.3
        if undo:
            self.verified.clear()  # the user may change verified slices so
        QTest.keyClick(
            view, Qt.Key_Z if undo else self.random.choice(KEYS), Qt.ControlModifier if undo else Qt.NoModifier
        )
        self.done.add("key")

    def point_click(self, name=""):
        name = name or self.random.choice(POINT_CLICKS)
        button = getattr(self.pointing.ui, name)
        if name == "propagateToButton":
            self.pointing.ui.propagateToSpinBox.value = self.random.randrange(1, SHAPE[0] + 1)
        if button.enabled and not self.nothing_left(name):
            if name == "undoPromptButton":
                self.verified.clear()
            button.click()
            self.done.add(name)

    def nothing_left(self, name):
        """A dialog says so where the slices beside were accepted, or the slice to go to is this one."""
        logic = self.pointing.logic
        if not name.startswith("propagate") or logic.propagating:
            return False
        sliceIndex = logic._here().sliceIndex
        way = {"propagateUpButton": "up", "propagateDownButton": "down"}.get(name, "both")
        to = self.pointing.ui.propagateToSpinBox.value - 1 if name == "propagateToButton" else None
        try:
            limitsOf(logic.volume, sliceIndex, way, to, logic._givenSlices())
        except InputError:
            return True
        return False

    def click(self, *names):
        name = self.random.choice(names)
        button = getattr(self.user.ui, name)
        if button.enabled:
            if name in ("undoButton", "undoSpreadButton", "verifiedButton"):  # the user may change verified slices so
                self.verified.clear()
            button.click()
            self.done.add(name)

    def make_up(self):
        """All is at rest: what had no chance so far, because something else went on, is pressed now, one of it."""
        special = {"spreadButton": self.spread, "keepAtButton": self.keep_at, "useSliceButton": self.use}
        for name in CLICKS:
            if name not in self.done and getattr(self.user.ui, name).enabled:
                special.get(name, lambda name=name: self.click(name))()
                return
        for name in POINT_CLICKS:
            if name not in self.done:
                self.point_click(name)
                if name in self.done:
                    return
        if "drag" not in self.done:
            self.point("point")
            self.pointing.rest()
        self.point("point")

    def press(self):
        if self.user.opened.widget.ui.segmentButton.enabled:
            self.user.opened.widget.ui.segmentButton.click()  # or Cancel
            self.done.add("segment")

    def scroll(self):
        axis = self.random.choice("KKKJI")
        if axis == "I":
            self.user.view("Yellow").SetOrientation("Sagittal")  # it may be tilted
        self.user.scroll(self.random.randrange(SHAPE["KJI".index(axis)]), axis)

    def tilt(self):
        self.user.view("Yellow").SetSliceToRASByNTP(0.0, -0.6, 0.8, 1.0, 0.0, 0.0, 15.0, 17.0, 18.0, 0)
        self.done.add("tilt")

    def slide(self):
        ui = self.user.ui
        if ui.classComboBox.enabled:
            ui.classComboBox.currentIndex = self.random.randrange(ui.classComboBox.count)
        name = self.random.choice(["thresholdSlider", *SLIDERS])
        if getattr(ui, name).enabled:
            getattr(ui, name).value = self.random.choice(SLIDERS[name])
            self.done.add(name)

    def keep_at(self):
        interactive = self.user.interactive
        if interactive.result.current is None:
            return
        places = np.argwhere(interactive.result.settled().written)
        if len(places):
            k, j, i = places[self.random.randrange(len(places))]
            crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
            crosshair = crosshair or slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCrosshairNode")
            crosshair.SetCrosshairRAS(i * SPACING[0], j * SPACING[1], k * SPACING[2])
            self.click("keepAtButton")

    def use(self):
        interactive = self.user.interactive
        if sliceOf(self.user.volume, interactive.preview.views.active) is not None:  # else a dialog says why not
            self.click("useSliceButton")

    def edit(self):
        node = self.user.result
        if node is None or node.GetSegmentation().GetNumberOfSegments() == 0:
            return
        index = self.random.randrange(SHAPE[0])
        if index not in {place.index for place in verifiedSlices(node)}:
            edit(self.user, index, self.random.choice(("Body", "Bone", "Body", "Bone", "Lesion")))
            self.done.add("edit")

    def spread(self):
        """A dialog says why not where no slice counts."""
        spreading, node = self.user.interactive.spreading, self.user.result
        if self.user.ui.spreadButton.enabled and (spreading.running or spreading.slices(node, self.user.volume)):
            self.click("spreadButton")

    def choose_model(self):
        self.user.state.model = self.random.choice(("default", "axial"))

    def choose_region(self):
        state = self.user.state
        state.region = self.random.choice((Region.WHOLE, Region.WHOLE, Region.SLICE, Region.RANGE))
        state.sliceView = self.user.view("Red")
        state.firstSlice, state.lastSlice = 3, 7
        self.done.add("region")

    def another_scan(self):
        """The user closes the scene and loads a scan."""
        slicer.mrmlScene.Clear()
        bench.process_events()
        self.user.load()
        self.verified.clear()
        self.done.add("scene")

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
            (12, self.scroll), (4, self.slide), (4, self.edit), (2, self.press), (2, self.spread),
            (1, self.choose_model), (0.5, self.choose_region), (0.3, self.kill), (0.3, self.remove),
            (0.1, self.another_scan), (1, self.tilt), (1, self.keep_at), (1, self.use),
            (5, lambda: self.click("previewCheckBox", "acceptSliceButton", "acceptAllButton", "discardButton")),
            (3, lambda: self.click("verifiedButton", "uncertainButton", "uncertaintyCheckBox")),
            (1, lambda: self.click("planesCheckBox", "flipsCheckBox", "cancelResultButton")),
            (3, lambda: self.click("classOnCheckBox", "thresholdCheckBox", "resetButton", "undoButton")),
            (1, lambda: self.click("largestCheckBox", "holesCheckBox")),
            (2, lambda: self.click("acceptSpreadButton", "refuseSpreadButton", "undoSpreadButton", "nextSliceButton")),
            (0.5, lambda: self.click("spreadSlicesButton")),
            (6, self.point), (2, self.point_key), (3, self.point_click),
        ]  # fmt: skip
        self.random.choices([action for _, action in actions], [weight for weight, _ in actions])[0]()
        bench.process_events()

    def rest(self):
        user, ui = self.user, self.user.opened.widget.ui
        preview = user.interactive.preview
        bench.wait_until(lambda: ui.segmentButton.text == "Segment")
        self.pointing.rest()
        user.settle()  # a control that comes to rest lets the preview begin again
        bench.wait_until(lambda: not preview.busy, what=lambda: preview.message)

    def look(self):
        user, interactive = self.user, self.user.interactive
        segmentations = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        assert sum(node.GetName().endswith("preview") for node in segmentations) <= 1
        spreads = [node.GetName() for node in segmentations if " spread" in node.GetName()]
        assert len(spreads) == int(interactive.spreading.open), [node.GetName() for node in segmentations]
        assert len(slicer.util.getNodesByClass("vtkMRMLSegmentEditorNode")) <= 1
        assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) <= 2
        for node in segmentations:
            segmentation = node.GetSegmentation()
            names = [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]
            assert len(names) == len(set(names)), names
            masks = [
                slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentID, user.volume) > 0
                for segmentID in segmentation.GetSegmentIDs()
                if segmentation.GetSegment(segmentID).GetName() in ("Body", "Bone")  # others are the user's
            ]
            assert not masks or np.sum(masks, axis=0).max() <= 1, "segments overlap"
        assert not interactive.result.busy and not interactive.spreading.running
        markups = slicer.util.getNodesByClass("vtkMRMLMarkupsNode")
        assert bool(markups) == bool(interactive.pointing.prompts), [node.GetName() for node in markups]
        for place in verifiedSlices(user.result):
            if place.axis == "K":  # edits cross the others
                labels = user.labels(user.result)[place.index]
                before = self.verified.setdefault((user.result.GetID(), place), labels)
                assert np.array_equal(labels, before), f"{place} was verified, and has changed"
        session = user.logic.segmentation.client.session
        if session is not None:
            left = [path for path in session.folder.path.iterdir() if path.suffix == ".npy"]
            assert len(left) <= 1, [np.load(path).shape for path in left]  # the volume, for the next preview


@pytest.mark.views
@pytest.mark.long
@pytest.mark.parametrize("seed", [1])
def test_a_random_walk_leaves_the_scene_consistent(user, seed):
    walk = Walk(user, seed)
    for number in range(1, ACTIONS + 1):
        walk.step()
        if number % REST == 0:
            walk.rest()
            walk.look()
            walk.make_up()
    missed = {"segment", "edit", "kill", "tilt", "region", *SLIDERS, *CLICKS, *POINTS} - walk.done
    assert len(missed) <= MISSED, missed
    walk.rest()  # from what was made up last
    user.state.region = Region.WHOLE
    user.segment()
    user.turn_on() if not user.interactive.preview.on else user.rest()
