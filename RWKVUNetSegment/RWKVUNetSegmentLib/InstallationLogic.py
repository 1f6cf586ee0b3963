"""What the worker needs in Slicer's Python, what of it is there, and how it gets there: on a click, never by itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class RequirementState:
    """Of one requirement."""

    MISSING = "missing"
    INSTALLING = "installing"
    READY = "ready"
    BROKEN = "broken"


@dataclass(frozen=True)
class Requirement:
    """One thing that is needed, or that helps.

    Attributes:
        name: "pytorch-extension", "torch", "packages" or "openvino".
        title: for people.
        state: one of `RequirementState`.
        why: for people: the version when READY, else what is wrong and what to do.
        optional: segmenting works without it.
    """

    name: str
    title: str
    state: str
    why: str = ""
    optional: bool = False


class InstallationLogic:
    """Looks at and installs the requirements. Nothing is imported to look: `states` takes milliseconds."""

    def states(self) -> tuple[Requirement, ...]:
        """All requirements, in the order in which they are installed."""
        raise NotImplementedError

    def isValid(self) -> tuple[bool, str]:
        """Whether all that is not optional is READY, and else a sentence that says what is not."""
        raise NotImplementedError

    def install(
        self, confirm: Callable[[str], bool] | None = None, openvino: bool = False
    ) -> tuple[bool, str]:
        """Install what is missing, in order; blocks, with Slicer's own progress dialogs. Main thread, on a click.

        Args:
            confirm: gets a text that says what will be done; False stops it. None asks with Slicer's dialog.
            openvino: also install OpenVINO (offered where there is no NVIDIA GPU: `openvinoOffered`).

        Returns:
            Whether all is there now, and else a sentence that says what is not and what to do. Never raises.
        """
        raise NotImplementedError

    @property
    def openvinoOffered(self) -> bool:
        """Whether OpenVINO would make this machine faster and is not there."""
        raise NotImplementedError

    @property
    def restartPending(self) -> bool:
        """An installation was begun and needs a restart of Slicer to go on; remembered over the restart."""
        raise NotImplementedError

    @property
    def continuesAfterRestart(self) -> bool:
        """Slicer was restarted in the middle of an installation, and something is still missing: offer to go on."""
        raise NotImplementedError

    def addCallback(self, callback: Callable[[], object]) -> None:
        """`callback()` is called after each change."""
        raise NotImplementedError

    def removeCallback(self, callback: Callable[[], object]) -> None:
        raise NotImplementedError


__all__ = ["Any", "InstallationLogic", "Requirement", "RequirementState"]
