"""Stand-ins for the CTK widgets that hold or show other things: their members are CTK's, their look is near to it."""

from bench import pythonqt
from bench.pyside import QtCore, QtGui, QtWidgets
from bench.standins import field, signal, standin

Qt = QtCore.Qt


@standin
class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    contentsCollapsed = signal("bool")

    def __init__(self, *arguments):
        super().__init__(next((a for a in arguments if pythonqt.isA(a, QtWidgets.QWidget)), None))
        self._hiddenChildren = []
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(lambda open_: setattr(self, "collapsed", not open_))
        self.setSizePolicy(QtWidgets.QSizePolicy.Preferred, QtWidgets.QSizePolicy.Preferred)
        self.setContentsMargins(0, self._headerHeight(), 0, 0)
        for text in arguments:
            if isinstance(text, str):
                self.text = text

    def _headerHeight(self):
        return self.fontMetrics().height() + 10

    def _apply(self, collapsed):
        self.setChecked(not collapsed)
        if collapsed:
            self._hideChildren()
        else:
            for child in self._hiddenChildren:
                child.setVisible(True)
            self._hiddenChildren.clear()
        self.updateGeometry()

    def _hideChildren(self):
        for child in self.children():
            if pythonqt.isA(child, QtWidgets.QWidget) and not child.isHidden():
                self._hiddenChildren.append(child)
                child.setVisible(False)

    collapsed = field(bool, False, "contentsCollapsed", _apply)
    collapsedHeight = field(int, 14)
    flat = field(bool, False)

    def event(self, event):
        if event.type() in (QtCore.QEvent.LayoutRequest, QtCore.QEvent.Show) and self.collapsed:
            self._hideChildren()
        return super().event(event)

    def hitButton(self, position):
        return position.y() < self._headerHeight()

    def sizeHint(self):
        header = QtCore.QSize(self.fontMetrics().horizontalAdvance(self.text) + 40, self._headerHeight())
        layout = self.layout()
        if self.collapsed or layout is None:
            return header
        return layout.totalSizeHint().expandedTo(header)

    def minimumSizeHint(self):
        return self.sizeHint() if self.collapsed or self.layout() is None else self.layout().totalMinimumSize()

    def paintEvent(self, event):
        painter = QtGui.QPainter(self)
        option = QtWidgets.QStyleOption()
        option.initFrom(self)
        header = QtCore.QRect(0, 0, self.width, self._headerHeight())
        painter.fillRect(header, self.palette.color(QtGui.QPalette.Button).darker(104))
        painter.setPen(self.palette.color(QtGui.QPalette.Mid))
        painter.drawRect(self.rect.adjusted(0, 0, -1, -1))
        painter.drawLine(header.bottomLeft(), header.bottomRight())
        option.rect = QtCore.QRect(6, 0, 14, header.height())
        arrow = QtWidgets.QStyle.PE_IndicatorArrowRight if self.collapsed else QtWidgets.QStyle.PE_IndicatorArrowDown
        self.style().drawPrimitive(arrow, option, painter, self)
        painter.setPen(self.palette.color(QtGui.QPalette.ButtonText))
        painter.drawText(header.adjusted(26, 0, 0, 0), Qt.AlignVCenter | Qt.AlignLeft | Qt.TextShowMnemonic, self.text)


@standin
class ctkComboBox(QtWidgets.QComboBox):
    defaultText = field(str, "")
    forceDefault = field(bool, False)


@standin
class ctkCheckBox(QtWidgets.QCheckBox):
    pass


@standin
class ctkPushButton(QtWidgets.QPushButton):
    pass


@standin
class ctkCheckablePushButton(ctkPushButton):
    checkBoxToggled = signal("bool")
    checkBoxControlsButton = field(bool, True)
    checkBoxControlsButtonToggleState = field(bool, True)
    checkBoxUserCheckable = field(bool, True)
    checkState = field(int, 0, None, lambda self, state: self.checkBoxToggled.emit(bool(state)))


@standin
class ctkDirectoryButton(QtWidgets.QWidget):
    directoryChanged = signal("QString")
    directorySelected = signal("QString")

    def __init__(self, *arguments):
        super().__init__(next((a for a in arguments if pythonqt.isA(a, QtWidgets.QWidget)), None))
        self._button = button = QtWidgets.QPushButton()
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(button)
        button.clicked.connect(self.browse)

    def _apply(self, path):
        self._button.text = path

    directory = field(str, "", "directoryChanged", _apply)
    caption = field(str, "")
    text = field(str, "", None, _apply)

    def browse(self, *_):
        path = QtWidgets.QFileDialog.getExistingDirectory(self, self.caption or "Select folder", self.directory)
        if path:
            self.directory = path
            self.directorySelected.emit(path)
        return path


@standin
class ctkMessageBox(QtWidgets.QMessageBox):
    dontShowAgain = field(bool, False)
    dontShowAgainVisible = field(bool, False)
    dontShowAgainSettingsKey = field(str, "")
