"""What must be seen in Slicer's light look is seen in its dark one: marks, tools that are on, boxes to tick."""

import ctk
import numpy as np
import pytest
import qt

import bench
from bench import palettes
from bench.pyside import QtWidgets
from module import logic_stand_ins as stand_ins
from module.panel import MODULE, add_volume


@pytest.fixture(params=["light", "dark"])
def look(request):
    """The module over a volume, in a look of Slicer's; gives its palette."""
    before = QtWidgets.QApplication.palette()
    palette = getattr(palettes, request.param)()
    QtWidgets.QApplication.setPalette(palette)
    yield palette
    QtWidgets.QApplication.setPalette(before)


@pytest.fixture
def panel(look):
    opened = stand_ins.openModule(MODULE)
    add_volume("scan")
    for section in opened.panel.findChildren(ctk.ctkCollapsibleButton):
        section.collapsed = False
    opened.panel.resize(450, 2600)
    opened.panel.show()
    bench.process_events()
    yield opened
    opened.close()
    bench.process_events()


def part(opened, name):
    panels = next(each for each in opened.widget.panels if type(each).__name__ == "InteractivePanel").parts
    return next(each for each in panels if type(each).__name__ == name)


def pixels(image):
    """(row, column, red green blue) of a QImage."""
    image = image.convertToFormat(qt.QImage.Format_RGB888)
    lines = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return lines[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).astype(int)


def picture_of(widget):
    image = qt.QImage(widget.size, qt.QImage.Format_RGB888)
    image.fill(qt.QColor("magenta"))
    widget.render(image)
    return image


def contrast(foreground, background):
    """Ratio of luminances, 1 to 21, as WCAG 2.1 defines it."""
    lights = []
    for color in (foreground, background):
        parts = np.asarray(color) / 255.0
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        lights.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return max(lights) / min(lights)


def rgb(color):
    return color.red(), color.green(), color.blue()


def test_strip(panel, look):
    """Of ten slices: verified 2, given to Spread 4, most uncertain 6; the mark at 8."""
    strip = part(panel, "VerifiedPanel")._strip
    strip.show(10, [2], [4], {6: 1.0}, 8)
    picture = pixels(strip._label.pixmap.toImage())
    middle = picture[picture.shape[0] // 2, 1::3]
    ground, window = middle[0], rgb(look.color(look.ColorRole.Window))
    assert 1.2 < contrast(ground, window) < 3, "the strip is seen, and does not glare"
    assert np.array_equal(middle[8], ground)
    assert contrast(picture[0, 8 * 3 + 1], ground) > 4, "the mark is seen on the strip"
    colors = {tuple(middle[index]) for index in (0, 2, 4, 6)}
    assert len(colors) == 4
    for index in (2, 4, 6):
        assert np.abs(middle[index] - ground).max() > 60


def test_buttons_that_are_on_can_be_told_and_read(panel):
    ui = part(panel, "PromptPanel").ui
    verified = part(panel, "VerifiedPanel").ui.verifiedButton
    for button in (ui.pointButton, ui.positiveButton, ui.negativeButton, verified):
        button.enabled = True
        grounds = {}
        for checked in (False, True):
            button.checked = checked
            picture = pixels(picture_of(button))
            grounds[checked] = np.median(picture[6:-6, 6:-6].reshape(-1, 3), axis=0)
            text = max(picture[6:-6, 6:-6].reshape(-1, 3), key=lambda pixel: contrast(pixel, grounds[checked]))
            assert contrast(text, grounds[checked]) > 3, (button.text, checked)
        assert np.abs(grounds[True] - grounds[False]).max() > 60, button.text


def test_boxes_to_tick(panel):
    """Qt outlines them in a shade of the window's color: in a dark list they would not be seen."""
    ui = panel.widget.ui
    ui.batchSourceComboBox.currentIndex = 1
    tree = ui.batchVolumesList
    tree.item(0).setCheckState(qt.Qt.Unchecked)
    bench.process_events()
    picture = pixels(picture_of(tree))
    ground = picture[-10, 100]
    box = picture[2:22, 2:22].reshape(-1, 3)
    assert max(contrast(pixel, ground) for pixel in box) > 1.8
