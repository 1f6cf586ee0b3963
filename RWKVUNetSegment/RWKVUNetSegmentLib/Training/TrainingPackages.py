"""The packages that only training needs: whether they are there, and how they get there, on a click."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from RWKVUNetSegmentLib.Segmentation.InstallationLogic import installPackages, pipIsBusy
from RWKVUNetSegmentLib.Segmentation.InstalledPackages import loadRequirements, look

REQUIREMENTS = Path(__file__).resolve().parents[2] / "Resources" / "requirements-training.txt"


class TrainingPackages:
    """Looks once, and again on `refresh`. Nothing is imported to look."""

    def __init__(self) -> None:
        self._missing: list[Any] | None = None

    @property
    def missing(self) -> list[Any]:
        """The requirements that are not met."""
        if self._missing is None:
            self._missing = [
                requirement for requirement in loadRequirements(REQUIREMENTS) if not look(requirement).usable
            ]
        return self._missing

    def refresh(self) -> None:
        """Look again when asked next."""
        self._missing = None

    def isValid(self) -> tuple[bool, str]:
        """Tell whether all are there, and else a sentence that says which are not."""
        if not self.missing:
            return True, ""
        names = ", ".join(requirement.name for requirement in self.missing)
        return False, _("Training needs packages that are not installed: {names}.").format(names=names)

    def install(self, confirm: Callable[[str], bool] | None = None) -> tuple[bool, str]:
        """Install what is missing; blocks, with Slicer's own progress dialog. Main thread, on a click.

        Args:
            confirm: gets a text that says what will be done; False stops it. None asks with Slicer's dialog.

        Returns:
            Whether all is there now, and else why not; without a reason when the user did not want it.
        """
        if pipIsBusy():
            return False, _("Another installation is running. Wait until it is over.")
        things = ", ".join(str(requirement) for requirement in self.missing)
        question = _("These packages will be downloaded and installed into Slicer:\n\n{things}\n\nGo on?")
        if not (confirm or _ask)(question.format(things=things)):
            return False, ""
        problem = installPackages(self.missing)
        self.refresh()
        return not problem, problem


def _ask(text: str) -> bool:
    return bool(slicer.util.confirmOkCancelDisplay(text, _("Packages for training")))
