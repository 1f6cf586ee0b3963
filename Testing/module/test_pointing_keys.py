"""Keys, colors and the cursor of pointing: those that users of nnInteractive know, and nobody else's."""

import pytest
import slicer
from PySide6.QtCore import Qt

import bench
from module.pointing_user import pointing_fixture  # noqa: F401 (fixtures)

GREEN, RED = (0.20, 0.85, 0.20), (0.90, 0.15, 0.15)

pytestmark = pytest.mark.views


def color_of_cursor(pointing):
    """Of the line of the cross, 0 to 1."""
    image = pointing.view().cursor.pixmap().toImage()
    color = image.pixelColor(image.width() // 2, 4)
    return tuple(part / 255 for part in (color.red(), color.green(), color.blue()))


@pytest.mark.parametrize(
    ("key", "label", "button", "tool"),
    [
        (Qt.Key_P, "(P)", "pointButton", "point"),
        (Qt.Key_B, "(B)", "boxButton", "box"),
        (Qt.Key_S, "(S)", "scribbleButton", "scribble"),
    ],
)
def test_tools(pointing, key, label, button, tool):
    pointing.arm("boxButton" if key != Qt.Key_B else "pointButton")
    pointing.key(key)
    shown = getattr(pointing.ui, button)
    assert pointing.logic.tool == tool and shown.checked and label in shown.text


def test_polarity_is_seen_in_cursor_button_and_marker(pointing):
    pointing.arm()
    ui = pointing.ui
    for positive, color in ((True, GREEN), (False, RED)):
        assert color_of_cursor(pointing) == pytest.approx(color, abs=0.003)
        assert ui.positiveButton.checked == positive and ui.negativeButton.checked != positive
        button = ui.positiveButton if positive else ui.negativeButton
        assert "rgb({}, {}, {})".format(*(round(255 * part) for part in color)) in button.styleSheet
        pointing.click((8, 6, 4) if positive else (12, 9, 4))
        colors = {
            tuple(round(part, 2) for part in node.GetDisplayNode().GetSelectedColor())
            for node in slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")
        }
        assert color in colors
        pointing.key(Qt.Key_T)
    assert pointing.logic.positive, "T goes to and fro"


def test_the_tool_stays_armed_and_every_release_is_answered(pointing):
    pointing.arm()
    view = pointing.look(4)
    for number, voxel in enumerate([(8, 6, 4), (14, 9, 4), (20, 12, 4)], 1):
        pointing.click(voxel, view)
        assert len(pointing.markers) == number and pointing.logic.tool == "point"


def test_e_goes_to_the_next_structure_r_clears_v_hides_ctrl_z_undoes_esc_leaves(pointing):
    pointing.arm()
    pointing.click((8, 6, 4))
    assert pointing.mask().any() and pointing.markers
    pointing.key(Qt.Key_V)
    assert not pointing.user.result.GetDisplayNode().GetVisibility()
    pointing.key(Qt.Key_V)
    pointing.key(Qt.Key_R)
    assert not pointing.mask().any() and not pointing.markers
    pointing.click((8, 6, 4))
    pointing.key(Qt.Key_Z, Qt.ControlModifier)
    assert not pointing.mask().any() and not pointing.markers
    pointing.click((8, 6, 4))
    first = pointing.logic.segmentID
    pointing.key(Qt.Key_E)
    assert pointing.logic.segmentID != first
    pointing.key(Qt.Key_Escape)
    assert not pointing.logic.tool and pointing.view().cursor.pixmap().isNull()


def test_keys_of_the_segment_editor_stay_its_own(pointing):
    """While an effect is active, no key is taken from it; and none of ours is a shortcut of the application."""
    pointing.arm()
    pointing.click((8, 6, 4))
    editor = slicer.qMRMLSegmentEditorWidget()
    editor.setMRMLSegmentEditorNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    editor.setMRMLScene(slicer.mrmlScene)
    editor.setSegmentationNode(pointing.user.result)
    editor.setActiveEffectByName("Paint")
    bench.process_events()
    seen, view = [], pointing.look(4)
    view.interactor().AddObserver("KeyPressEvent", lambda caller, event: seen.append(caller.GetKeySym()), 1.0)
    for key in (Qt.Key_P, Qt.Key_E, Qt.Key_S, Qt.Key_T):
        pointing.key(key, view=view)
    assert seen == ["p", "e", "s", "t"] and not pointing.logic.tool
