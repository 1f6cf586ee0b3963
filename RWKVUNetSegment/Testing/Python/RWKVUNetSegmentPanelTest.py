"""The panel inside Slicer: opens, and says why Segment cannot work before a volume is chosen. Needs no packages."""

import unittest

import slicer


class RWKVUNetSegmentPanelTest(unittest.TestCase):
    def setUp(self):
        slicer.mrmlScene.Clear()
        self.widget = slicer.util.getModuleWidget("RWKVUNetSegment")
        self.widget.initializeParameterNode()

    def test_everySectionIsThere(self):
        for name in ("inputs", "model", "advanced", "batch", "setup"):
            self.assertTrue(hasattr(self.widget.ui, f"{name}CollapsibleButton"), name)

    def test_segmentSaysWhyItCannotWork(self):
        button = self.widget.ui.segmentButton
        self.assertFalse(button.enabled)
        self.assertTrue(button.toolTip)

    def test_choicesAreSavedWithTheScene(self):
        self.widget.ui.smoothingSlider.value = 1.5
        self.assertEqual(float(self.widget.logic.getParameterNode().parameterNode.GetParameter("smoothing")), 1.5)

    def test_closedSceneGivesAFreshState(self):
        self.widget.ui.smoothingSlider.value = 1.5
        slicer.mrmlScene.Clear()
        self.widget.initializeParameterNode()
        self.assertEqual(self.widget.ui.smoothingSlider.value, 0.0)


if __name__ == "__main__":
    unittest.main()
