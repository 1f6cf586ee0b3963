"""Setup: what the segmentation needs, what of it is installed, and its installation on a click."""

from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from RWKVUNetSegmentLib.Panels.Panel import Panel, showErrors
from RWKVUNetSegmentLib.Segmentation.InstallationLogic import RequirementState

_ICONS = Path(__file__).resolve().parents[2] / "Resources" / "Icons"


class SetupPanel(Panel):
    """The first section, and open, as long as something is missing; else the last."""

    def setup(self) -> None:
        header = self.ui.requirementsTree.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        header.setSectionResizeMode(1, qt.QHeaderView.ResizeToContents)
        self.ui.installButton.connect("clicked()", self.onInstall)
        self.ui.torchButton.connect("clicked()", self.onInstallTorch)
        self.logic.installation.changed.connect(self.onInstallationChanged)
        self.onInstallationChanged()

    def cleanup(self) -> None:
        self.logic.installation.changed.disconnect(self.onInstallationChanged)

    def onInstallationChanged(self) -> None:
        """Show what is there now, and move the section where it belongs."""
        words = {
            RequirementState.MISSING: (_("Missing"), "StateDownload"),
            RequirementState.INSTALLING: (_("Installing…"), "StateDownload"),
            RequirementState.CHECKING: (_("Checking…"), "StateDownload"),
            RequirementState.READY: (_("Ready"), "StateReady"),
            RequirementState.BROKEN: (_("Broken"), "StateBroken"),
        }
        tree = self.ui.requirementsTree
        tree.clear()
        for requirement in self.logic.installation.states():
            text, icon = words[requirement.state]
            if requirement.optional and requirement.state == RequirementState.MISSING:
                text, icon = _("Optional"), "StateUnavailable"
            item = qt.QTreeWidgetItem()
            item.setText(0, requirement.title)
            item.setToolTip(0, requirement.title)
            item.setText(1, text)
            item.setIcon(1, qt.QIcon(str(_ICONS / f"{icon}.png")))
            item.setToolTip(1, requirement.why)
            tree.addTopLevelItem(item)
        rows = tree.topLevelItemCount * tree.sizeHintForRow(0)
        tree.setFixedHeight(tree.header().height + 2 * tree.frameWidth + rows)
        self._place(self.logic.installation.isValid()[0])
        self.updateFromState()

    def _place(self, ready: bool) -> None:
        section = self.ui.setupCollapsibleButton
        layout = section.parentWidget().layout()
        position = layout.count() - 2 if ready else 0  # the last item is the spacer
        if layout.indexOf(section) != position:
            layout.removeWidget(section)
            layout.insertWidget(position, section)
            section.collapsed = ready
        elif not ready:
            section.collapsed = False

    def updateFromState(self) -> None:
        ui, installation = self.ui, self.logic.installation
        ready, reason = installation.isValid()
        ui.torchButton.visible = installation.torchOffered and not installation.restartPending
        if installation.restartPending:
            text = _("Slicer must be restarted to go on with the installation.")
            ui.installButton.text = _("Restart Slicer")
        else:
            ui.installButton.text = _("Install")
            if ready:
                text = _("Everything that is needed is installed.")
            elif installation.checking:
                text = _("It is being checked, once, whether what is installed can be used.")
            else:
                text = _("Before the first segmentation, some software must be downloaded and installed, once.")
        broken = [
            f"{each.title}: {each.why}" for each in installation.states() if each.state == RequirementState.BROKEN
        ]
        ui.setupLabel.text = "\n".join([text, *broken])
        free, why = self.logic.segmentation.canStart()
        needed = not (ready or installation.checking) or installation.restartPending
        self.allow(ui.installButton, needed and free, why or _("Nothing is missing."))
        self.allow(ui.torchButton, free, why)
        ui.installButton.visible = needed
        if not ready:
            ui.setupCollapsibleButton.toolTip = reason

    def onInstall(self) -> None:
        self._install(torch=False)

    def onInstallTorch(self) -> None:
        self._install(torch=True)

    def _install(self, torch: bool) -> None:
        with showErrors(_("The installation failed.")):
            installation = self.logic.installation
            if installation.restartPending:
                slicer.util.restart()
                return
            self.install(torch=torch)

    def goOn(self) -> None:
        """After a restart that an installation needed, go on with what the user has agreed to."""
        with showErrors(_("The installation failed.")):
            self.tellInstallation(*self.logic.installation.resume())
