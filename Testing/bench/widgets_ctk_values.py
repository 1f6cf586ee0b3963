"""Stand-ins for the CTK widgets that hold a number, two numbers or a path."""

import re

from bench.pyside import QtCore, QtGui, QtWidgets
from bench.standins import field, signal, standin

Qt = QtCore.Qt


def _row(widget, *parts):
    row = QtWidgets.QHBoxLayout(widget)
    row.setContentsMargins(0, 0, 0, 0)
    for part in parts:
        row.addWidget(part)
    return row


def _forward(kind, name, part):
    """A property that is a property of a part: the spin box's decimals are the widget's decimals."""

    def setter(self, value):
        setattr(getattr(self, part), name, value)

    return QtCore.Property(kind, lambda self: getattr(getattr(self, part), name), setter)


@standin
class ctkDoubleSpinBox(QtWidgets.QWidget):
    valueChanged = signal("double")
    editingFinished = signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        self._box = box = QtWidgets.QDoubleSpinBox()
        _row(self, box)
        box.valueChanged.connect(lambda value: self.valueChanged.emit(value))
        box.editingFinished.connect(lambda: self.editingFinished.emit())

    value = _forward(float, "value", "_box")
    minimum = _forward(float, "minimum", "_box")
    maximum = _forward(float, "maximum", "_box")
    singleStep = _forward(float, "singleStep", "_box")
    decimals = _forward(int, "decimals", "_box")
    prefix = _forward(str, "prefix", "_box")
    suffix = _forward(str, "suffix", "_box")
    readOnly = _forward(bool, "readOnly", "_box")

    def setValue(self, value):
        self.value = value

    def setDecimals(self, decimals):
        self.decimals = decimals


@standin
class ctkDoubleSlider(QtWidgets.QWidget):
    valueChanged = signal("double")
    sliderReleased = signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        self._slider = slider = QtWidgets.QSlider(Qt.Horizontal)
        slider.setRange(0, 1000)
        _row(self, slider)
        slider.sliderMoved.connect(lambda at: setattr(self, "value", self.minimum + at / 1000 * self._span()))
        slider.sliderReleased.connect(lambda: self.sliderReleased.emit())

    def _span(self):
        return (self.maximum - self.minimum) or 1.0

    def _place(self, *_):
        self._slider.setValue(round(1000 * (self.value - self.minimum) / self._span()))

    def _bound(self, *_):
        self.value = min(max(self.value, self.minimum), self.maximum)
        self._place()

    minimum = field(float, 0.0, None, _bound)
    maximum = field(float, 99.0, None, _bound)
    singleStep = field(float, 1.0)
    tracking = field(bool, True)
    value = field(float, 0.0, "valueChanged", _place)

    def setValue(self, value):
        self.value = min(max(float(value), self.minimum), self.maximum)


@standin
class ctkSliderWidget(QtWidgets.QWidget):
    valueChanged = signal("double")
    valueIsChanging = signal("double")
    decimalsChanged = signal("int")

    def __init__(self, parent=None):
        super().__init__(parent)
        self._slider = slider = ctkDoubleSlider()
        self._box = box = QtWidgets.QDoubleSpinBox()
        box.setRange(0, 99)
        _row(self, slider, box).setStretch(0, 1)
        slider.valueChanged.connect(lambda value: setattr(box, "value", value))
        box.valueChanged.connect(self._changed)

    def _changed(self, value):
        self._slider.value = value
        self.valueChanged.emit(value)

    def _limit(self, *_):
        self._box.setRange(self.minimum, self.maximum)
        self._slider.minimum, self._slider.maximum = self.minimum, self.maximum

    def _show(self, visible):
        self._box.setVisible(visible)

    minimum = field(float, 0.0, None, _limit)
    maximum = field(float, 99.0, None, _limit)
    value = _forward(float, "value", "_box")
    singleStep = _forward(float, "singleStep", "_box")
    decimals = _forward(int, "decimals", "_box")
    prefix = _forward(str, "prefix", "_box")
    suffix = _forward(str, "suffix", "_box")
    pageStep = field(float, 10.0)
    tickInterval = field(float, 0.0)
    tracking = field(bool, True)
    popupSlider = field(bool, False)
    spinBoxVisible = field(bool, True, None, _show)

    def setValue(self, value):
        self.value = value

    def setDecimals(self, decimals):
        self.decimals = decimals

    def setSpinBoxVisible(self, visible):
        self.spinBoxVisible = visible

    def reset(self):
        self.value = self.minimum


class _Range(QtWidgets.QWidget):
    """Two values between two bounds."""

    valuesChanged = signal("double", "double")
    minimumValueChanged = signal("double")
    maximumValueChanged = signal("double")

    def __init__(self, parent=None):
        super().__init__(parent)
        low, high = QtWidgets.QDoubleSpinBox(), QtWidgets.QDoubleSpinBox()
        self._low, self._high, self._slider = low, high, _RangeBar(self)
        self._values = self._bounds = (0.0, 99.0)
        _row(self, low, self._slider, high).setStretch(1, 1)
        self._bound()
        low.valueChanged.connect(lambda value: self.setValues(value, max(value, self.maximumValue)))
        high.valueChanged.connect(lambda value: self.setValues(min(value, self.minimumValue), value))

    def _bound(self):
        for box in (self._low, self._high):
            box.blockSignals(True)
            box.setRange(*self._bounds)
            box.blockSignals(False)
        self.setValues(*self._values)

    def setRange(self, minimum, maximum):
        self._bounds = (float(minimum), max(float(minimum), float(maximum)))
        self._bound()

    def setValues(self, minimum, maximum):
        least, most = self._bounds
        before = self._values
        new = (min(max(float(minimum), least), most), min(max(float(maximum), least), most))
        self._values = new
        for box, value in zip((self._low, self._high), new, strict=True):
            box.blockSignals(True)
            box.value = value
            box.blockSignals(False)
        self._slider.update()
        if new == before:
            return
        self.valuesChanged.emit(*new)
        for index, changed in enumerate((self.minimumValueChanged, self.maximumValueChanged)):
            if new[index] != before[index]:
                changed.emit(new[index])

    def setMinimumValue(self, value):
        self.setValues(value, max(value, self.maximumValue))

    def setMaximumValue(self, value):
        self.setValues(min(value, self.minimumValue), value)

    minimum = QtCore.Property(float, lambda self: self._bounds[0], lambda self, v: self.setRange(v, self._bounds[1]))
    maximum = QtCore.Property(float, lambda self: self._bounds[1], lambda self, v: self.setRange(self._bounds[0], v))
    minimumValue = QtCore.Property(float, lambda self: self._values[0], setMinimumValue)
    maximumValue = QtCore.Property(float, lambda self: self._values[1], setMaximumValue)
    singleStep = _forward(float, "singleStep", "_low")
    tracking = field(bool, True)
    symmetricMoves = field(bool, False)


class _RangeBar(QtWidgets.QWidget):
    """Draws the chosen part of the range; both ends are set in the boxes beside it."""

    def __init__(self, owner):
        super().__init__()
        self._owner = owner
        self.setMinimumSize(40, 16)

    def paintEvent(self, event):
        painter = QtGui.QPainter(self)
        least, most = self._owner._bounds
        span = (most - least) or 1.0
        left, right = ((value - least) / span * (self.width - 9) + 4 for value in self._owner._values)
        middle = self.height // 2
        painter.fillRect(4, middle - 2, self.width - 8, 4, self.palette.color(QtGui.QPalette.Mid))
        painter.fillRect(QtCore.QRectF(left, middle - 2, right - left, 4), self.palette.color(QtGui.QPalette.Highlight))
        for at in (left, right):
            painter.fillRect(QtCore.QRectF(at - 3, middle - 6, 6, 12), self.palette.color(QtGui.QPalette.Dark))


@standin
class ctkRangeWidget(_Range):
    def _decimals(self, decimals):
        self._low.decimals = self._high.decimals = decimals

    def _suffix(self, suffix):
        self._low.suffix = self._high.suffix = suffix

    decimals = field(int, 2, None, _decimals)
    suffix = field(str, "", None, _suffix)

    def setDecimals(self, decimals):
        self.decimals = decimals


@standin
class ctkPathLineEdit(QtWidgets.QWidget):
    currentPathChanged = signal("QString")
    validInputChanged = signal("bool")
    # ctkPathLineEdit::Filter
    Dirs, Files, Drives, NoSymLinks = 0x1, 0x2, 0x4, 0x8
    Readable, Writable, Executable, Hidden, System = 0x10, 0x20, 0x40, 0x100, 0x200

    def __init__(self, parent=None):
        super().__init__(parent)
        self._valid = False
        self._combo = combo = QtWidgets.QComboBox()
        self._browseButton = button = QtWidgets.QToolButton()
        combo.setEditable(True)
        button.text = "..."
        _row(self, combo, button).setStretch(0, 1)
        self.setFocusProxy(combo.lineEdit())
        combo.editTextChanged.connect(self._edited)
        button.clicked.connect(self.browse)

    def _edited(self, path):
        """ctkPathLineEdit::updateHasValidInput: what is not valid is not told as a change of the path.

        Of the name filters, only the endings count (ctk::nameFiltersToRegularExpression): a folder is not valid then,
        nor a file that is named in full.
        """
        wildcards = " ".join(each.partition("(")[2].rstrip(")") for each in self.nameFilters).split()
        endings = [found[1] for each in wildcards if (found := re.search(r"\*\.(\w+)", each))]
        pattern = "|".join(rf".*\.{ending}?" for ending in endings) or ".+"
        before, self._valid = self._valid, re.fullmatch(pattern, path) is not None
        if self._valid:
            self.currentPathChanged.emit(path)
        if self._valid != before:
            self.validInputChanged.emit(self._valid)

    currentPath = QtCore.Property(str, lambda self: self._combo.currentText, lambda self, v: self.setCurrentPath(v))
    label = field(str, "")
    filters = field(int, 0x1 | 0x2 | 0x4 | 0x10)
    nameFilters = field("QStringList", ())
    settingKey = field(str, "")
    showBrowseButton = field(bool, True, None, lambda self, visible: self._browseButton.setVisible(visible))
    showHistoryButton = field(bool, True)
    minimumContentsLength = field(int, 0)

    def comboBox(self):
        return self._combo

    def setCurrentPath(self, path):
        self._combo.setEditText(str(path))

    def browse(self, *_):
        dialog = QtWidgets.QFileDialog
        if self.filters & self.Files:
            path = dialog.getOpenFileName(self, self.label, self.currentPath, ";;".join(self.nameFilters))
        else:
            path = dialog.getExistingDirectory(self, self.label, self.currentPath)
        if path:
            self.setCurrentPath(path)

    def addCurrentPathToHistory(self):
        if self.settingKey:
            QtCore.QSettings().setValue(self.settingKey, [self.currentPath])

    def retrieveHistory(self):
        known = QtCore.QSettings().value(self.settingKey) or ()
        for path in (known,) if isinstance(known, str) else known:
            self._combo.addItem(path)
