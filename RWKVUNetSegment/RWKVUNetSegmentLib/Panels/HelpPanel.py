"""Help: where to read, where to ask, and a report for whoever is to help."""

from typing import Any

import qt
from slicer.i18n import tr as _

from RWKVUNetSegmentLib.Panels.Panel import Panel, showErrors
from RWKVUNetSegmentLib.Worker.DoctorReport import DoctorReport

_HOME = "https://github.com/RWKVUNetSegment/RWKVUNetSegment"
_FORUM = "https://discourse.slicer.org/tag/segmentation"
ISSUES = f"{_HOME}/issues/new?template=bug.yml"


class HelpPanel(Panel):
    """Part of the section Setup and help."""

    def setup(self) -> None:
        self._report: Any = None
        links = (
            (_("Tutorial"), f"{_HOME}/blob/main/docs/tutorial.md"),
            (_("Questions: Slicer's forum"), _FORUM),
            (_("What is new"), f"{_HOME}/blob/main/CHANGELOG.md"),
        )
        self.ui.helpLabel.text = " · ".join(f'<a href="{address}">{title}</a>' for title, address in links)
        self.ui.reportButton.connect("clicked()", self.onReport)

    def cleanup(self) -> None:
        if self._report is not None:
            self._report.stop()

    def updateFromState(self) -> None:
        making = self._report is not None
        self.ui.reportButton.text = _("Making the report…") if making else _("Report a problem")
        self.allow(self.ui.reportButton, not making, _("It takes some seconds: every engine is tried."))

    def onReport(self) -> None:
        with showErrors(_("The report could not be made.")):
            self._report = True
            report = DoctorReport(self.onDone)
            self._report = report if self._report else None  # it may be done at once
        self.updateFromState()

    def onDone(self, text: str) -> None:
        self._report = None
        qt.QApplication.clipboard().setText(text)
        self.updateFromState()
        qt.QDesktopServices.openUrl(qt.QUrl(ISSUES))
