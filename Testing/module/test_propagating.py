"""A user carries a structure on through the slices, over a stand-in worker, which goes as far as the bright blocks."""

import numpy as np
import pytest
import slicer
from PySide6.QtCore import Qt

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import SliceIndex

import bench
from module.pointing_user import disk, pointing_fixture  # noqa: F401 (fixtures)

pytestmark = pytest.mark.views


def slices(pointing, name="Structure 1"):
    return np.flatnonzero(pointing.mask(name).any((1, 2))).tolist()


@pytest.fixture(name="pointed")
def pointed_fixture(pointing):
    pointing.arm()
    pointing.click((8, 7, 4))
    return pointing


def press(pointing, button):
    control = getattr(pointing.ui, button)
    assert control.enabled, control.toolTip
    control.click()
    pointing.rest()


@pytest.mark.parametrize(
    "button, expected, shown",
    [
        ("propagateButton", [2, 3, 4, 5, 6, 7], 7),
        ("propagateUpButton", [4, 5, 6, 7], 7),
        ("propagateDownButton", [2, 3, 4], 2),
    ],
)
def test_ways(pointed, button, expected, shown):
    press(pointed, button)
    assert slices(pointed) == expected and pointed.markers == []
    assert all(np.array_equal(pointed.mask()[k], disk((8, 7, 4))[4]) for k in expected)
    assert pointed.user.interactive.lookedAt(pointed.user.volume) == SliceIndex("K", shown), "where it stopped"
    assert "The structure ends there." in pointed.ui.promptStatusLabel.text
    assert str(shown + 1) in pointed.ui.promptStatusLabel.text
    pointed.ui.undoPromptButton.click()
    pointed.rest()
    assert slices(pointed) == [4], "one undo step"


def test_the_last_slice_is_read_where_it_is_looked_at(pointed):
    """The number that “To slice” asks for."""
    pointed.look(6)
    assert "(Axial 7)" in pointed.ui.propagateLabel.text
    pointed.look(4)
    assert "(Axial 5)" in pointed.ui.propagateLabel.text
    pointed.ui.propagateToSpinBox.value = 7
    press(pointed, "propagateToButton")
    assert slices(pointed) == [4, 5, 6] and "(Axial 7)" in pointed.ui.propagateLabel.text


def test_to_a_slice(pointed):
    pointed.ui.propagateToSpinBox.value = 7
    press(pointed, "propagateToButton")
    assert slices(pointed) == [4, 5, 6]
    assert pointed.user.interactive.lookedAt(pointed.user.volume) == SliceIndex("K", 6)


def test_accepted_and_verified_slices_stay(pointed):
    press(pointed, "propagateButton")
    pointed.click((20, 12, 6))
    pointed.key(Qt.Key_Return)
    corrected = pointed.mask()[6]
    pointed.user.interactive.setVerified(SliceIndex("K", 3), node=pointed.user.result, volume=pointed.user.volume)
    pointed.user.scroll(2)
    pointed.key(Qt.Key_T)
    pointed.click((8, 7, 2))
    pointed.click((8, 9, 2))
    press(pointed, "propagateUpButton")
    after = pointed.mask()
    assert np.array_equal(after[6], corrected) and np.array_equal(after[3], disk((8, 7, 4))[4])


def test_cancel(pointed):
    (pointed.user.folder / "hold").touch()
    pointed.ui.propagateButton.click()
    bench.wait_until(lambda: pointed.user.asked("FollowRequest"))
    bench.process_events()
    assert (
        pointed.ui.propagateButton.text == "Cancel" and not pointed.opened.widget.ui.segmentButton.enabled
        if hasattr(pointed, "opened")
        else True
    )
    assert not pointed.user.logic.segmentation.canStart()[0]
    pointed.ui.propagateButton.click()
    pointed.rest()
    assert slices(pointed) == [4] and "Cancelled" in pointed.ui.promptStatusLabel.text
    assert pointed.ui.propagateButton.text == "Up and down"


def test_a_worker_that_ends_meanwhile(pointed):
    (pointed.user.folder / "hold").touch()
    pointed.ui.propagateButton.click()
    bench.wait_until(lambda: pointed.user.asked("FollowRequest"))
    pointed.user.logic.segmentation.client.kill("The test ended it.")
    pointed.rest()
    assert slices(pointed) == [4] and "The test ended it." in pointed.ui.promptStatusLabel.text
    (pointed.user.folder / "hold").unlink()
    press(pointed, "propagateUpButton")
    assert slices(pointed) == [4, 5, 6, 7]


def test_a_scene_that_is_closed_meanwhile(pointed):
    (pointed.user.folder / "hold").touch()
    pointed.ui.propagateButton.click()
    bench.wait_until(lambda: pointed.user.asked("FollowRequest"))
    slicer.mrmlScene.Clear()
    bench.process_events()
    assert not pointed.logic.propagating and not pointed.user.interactive.result.busy
    (pointed.user.folder / "go").touch()
    pointed.user.load()
    pointed.rest()
    pointed.arm()
    pointed.click((8, 7, 4))
    assert slices(pointed) == [4]


def test_nothing_to_propagate_is_told(pointing):
    assert pointing.ui.propagateButton.toolTip == "Point at a structure first."
    with pytest.raises(InputError, match="Point at a structure"):
        pointing.logic.propagate()
    pointing.arm()
    pointing.click((8, 7, 4))
    pointing.key(Qt.Key_Return)
    pointing.user.scroll(5)
    bench.process_events()
    assert pointing.ui.propagateButton.toolTip == "The structure is not in the slice that you look at."


def test_a_scan_of_one_slice(pointing):
    from module.interactive_user import SPACING, array

    volume = slicer.util.addVolumeFromArray(array()[4:5], name="one slice")
    volume.SetSpacing(*SPACING)
    pointing.user.volume, pointing.shape = volume, (1, *pointing.shape[1:])
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    pointing.user.state.inputVolume = volume
    bench.process_events()
    pointing.arm()
    pointing.click((8, 7, 0))
    assert np.array_equal(pointing.mask(), disk((8, 7, 0), shape=pointing.shape))
    with pytest.raises(InputError, match=r"There is no slice to go to\.$"):
        pointing.logic.propagate()
    assert not pointing.logic.propagating and pointing.user.logic.segmentation.canStart()[0]


def test_a_scan_that_cannot_be_pointed_at_is_told(pointing):
    pointing.arm()
    pointing.user.volume.GetImageData().GetPointData().SetScalars(None)
    pointing.user.volume.Modified()
    bench.process_events()
    assert not pointing.ui.pointButton.enabled and pointing.ui.pointButton.toolTip == "scan is empty."
    with pytest.raises(InputError, match="empty"):
        pointing.logic.point((8.0, 9.0, 16.0))
