"""What the worker needs in Slicer's Python, what of it is there, and how it gets there: on a click, never by itself."""

import importlib
import inspect
import logging
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from RWKVUNetSegmentLib.Segmentation.InstalledPackages import loadRequirements, look, parse
from RWKVUNetSegmentLib.Worker.Signal import Signal

REQUIREMENTS = Path(__file__).resolve().parents[2] / "Resources" / "requirements.txt"
TORCH = "torch>=2.2"
OPENVINO = "openvino>=2024.6"

SKIPPED = ("SimpleITK", "vtk", "numpy", "torch", "torchvision")
"""Packages that must stay as Slicer and the PyTorch extension brought them."""

_MARKER = "RWKVUNetSegment/InstallationBegunBy"
"""Setting: process id of the Slicer that began an installation and did not end it."""


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
    """Looks at and installs the requirements. Nothing is imported to look."""

    def __init__(self) -> None:
        self.changed = Signal()
        self._installing = ""
        self._states: tuple[Requirement, ...] | None = None

    def states(self) -> tuple[Requirement, ...]:
        """All requirements, in the order in which they are installed, as they were found last."""
        if self._states is None:
            torch = self._torch()
            self._states = (self._extension(torch), torch, self._packages(), self._openvino())
        return self._states

    def refresh(self) -> None:
        """Look again, as others may have installed something."""
        self._states = None
        self.changed.emit()

    def isValid(self) -> tuple[bool, str]:
        """Whether all that is not optional is READY, and else a sentence that says what is not."""
        for one in self.states():
            if not one.optional and one.state != RequirementState.READY:
                return False, f"{one.title}: {one.why}"
        return True, ""

    def install(self, confirm: Callable[[str], bool] | None = None, openvino: bool = False) -> tuple[bool, str]:
        """Install what is missing, in order; blocks, with Slicer's own progress dialogs. Main thread, on a click.

        A worker that runs must be started anew afterwards.

        Args:
            confirm: gets a text that says what will be done; False stops it. None asks with Slicer's dialog.
            openvino: also install OpenVINO (offered where there is no NVIDIA GPU: `openvinoOffered`).

        Returns:
            Whether all is there now, and else a sentence that says what is not and what to do; none when the user
            did not want it. Never raises.
        """
        self.refresh()
        wanted = [
            one for one in self.states() if one.state != RequirementState.READY and (openvino or not one.optional)
        ]
        if self._installing or pipIsBusy():
            return False, _("Another installation is running. Wait until it is over.")
        if wanted and not (confirm or _ask)(self._announcement(wanted)):
            return False, ""
        steps = {
            "pytorch-extension": self._installExtension,
            "torch": self._installTorch,
            "packages": self._installPackages,
            "openvino": self._installOpenVINO,
        }
        qt.QSettings().setValue(_MARKER, os.getpid() if wanted else 0)
        for one in wanted:
            self._installing = one.name
            self.refresh()
            try:
                problem = steps[one.name]()
            except Exception as error:  # of pip, of the network, of another extension: all are told
                logging.exception("RWKVUNetSegment: %s could not be installed", one.title)
                problem = _("{title} could not be installed: {error}. The Python console tells more.").format(
                    title=one.title, error=str(error).rstrip(".")
                )
            finally:
                self._installing = ""
                self.refresh()
            if problem:
                return False, problem
        valid, reason = self.isValid()
        if valid:
            qt.QSettings().remove(_MARKER)
        self.refresh()
        return valid, reason

    @property
    def openvinoOffered(self) -> bool:
        """Whether OpenVINO would make this machine faster and is not there."""
        return not _hasNvidiaGPU() and sys.platform != "darwin" and not look(parse(OPENVINO)).usable

    @property
    def restartPending(self) -> bool:
        """The PyTorch extension is installed, and Slicer must be restarted to load it."""
        return not hasattr(slicer.modules, "pytorchutils") and _extensionIsInstalled()

    @property
    def continuesAfterRestart(self) -> bool:
        """Slicer was restarted in the middle of an installation, and something is still missing: offer to go on."""
        return _markedBy() not in (0, os.getpid()) and not self.isValid()[0]

    def _extension(self, torch: Requirement) -> Requirement:
        title = _("PyTorch extension")
        if hasattr(slicer.modules, "pytorchutils"):
            return self._requirement("pytorch-extension", title, RequirementState.READY, _("installed"))
        if torch.state == RequirementState.READY:
            return self._requirement(
                "pytorch-extension", title, RequirementState.READY, _("not needed: PyTorch is there")
            )
        why = _("not installed. Press Install, or use the Extensions Manager; then restart Slicer.")
        if self.restartPending:
            why = _("installed. Restart Slicer, then press Install to go on.")
        return self._requirement("pytorch-extension", title, RequirementState.MISSING, why)

    def _torch(self) -> Requirement:
        found = look(parse(TORCH))
        if found.usable:
            return self._requirement("torch", "PyTorch", RequirementState.READY, found.version)
        if found.missing:
            return self._requirement("torch", "PyTorch", RequirementState.MISSING, _("not installed. Press Install."))
        why = _("{reason} Uninstall it in the module PyTorch Utils, restart Slicer, and press Install.").format(
            reason=found.broken
        )
        return self._requirement("torch", "PyTorch", RequirementState.BROKEN, why)

    def _packages(self) -> Requirement:
        title = _("Python packages")
        found = {one.name: look(one) for one in loadRequirements(REQUIREMENTS)}
        missing = [name for name, one in found.items() if one.missing]
        broken = [one.broken for one in found.values() if one.broken]
        if broken:
            return self._requirement(
                "packages", title, RequirementState.BROKEN, " ".join([*broken, _("Press Install.")])
            )
        if missing:
            why = _("{names} not installed. Press Install.").format(names=", ".join(missing))
            return self._requirement("packages", title, RequirementState.MISSING, why)
        why = ", ".join(f"{name} {one.version}" for name, one in found.items())
        return self._requirement("packages", title, RequirementState.READY, why)

    def _openvino(self) -> Requirement:
        found = look(parse(OPENVINO))
        if found.usable:
            return self._requirement("openvino", "OpenVINO", RequirementState.READY, found.version, optional=True)
        state = RequirementState.MISSING if found.missing else RequirementState.BROKEN
        why = found.broken or _("not installed; it makes segmentation on a CPU faster.")
        return self._requirement("openvino", "OpenVINO", state, why, optional=True)

    def _requirement(self, name: str, title: str, state: str, why: str, optional: bool = False) -> Requirement:
        if name == self._installing:
            return Requirement(name, title, RequirementState.INSTALLING, _("being installed ..."), optional)
        return Requirement(name, title, state, why, optional)

    def _announcement(self, wanted: list[Requirement]) -> str:
        lines = {
            "pytorch-extension": _("the Slicer extension PyTorch; then Slicer must be restarted"),
            "torch": _("PyTorch, up to some gigabytes"),
            "packages": _("Python packages: {names}").format(
                names=", ".join(str(one) for one in loadRequirements(REQUIREMENTS))
            ),
            "openvino": _("OpenVINO, some 50 MB"),
        }
        things = "\n".join(f"- {lines[one.name]}" for one in wanted)
        return _(
            "This will be downloaded and installed into Slicer:\n\n{things}\n\nIt can take minutes. Go on?"
        ).format(things=things)

    def _installExtension(self) -> str:
        if not _extensionIsInstalled():  # else only the restart is missing
            manager = slicer.app.extensionsManagerModel()
            manager.installExtensionFromServer("PyTorch", False)  # asks by itself, and brings what it depends on
        if not _extensionIsInstalled():
            return _("The PyTorch extension was not installed. Check the connection, and try again.")
        return _("Restart Slicer, and press Install again to go on.")

    def _installTorch(self) -> str:
        import PyTorchUtils

        logic = PyTorchUtils.PyTorchUtilsLogic()
        keywords = {"askConfirmation": False, "torchVersionRequirement": str(parse(TORCH).specifier)}
        known = inspect.signature(logic.installTorch).parameters
        installed = logic.installTorch(**{name: value for name, value in keywords.items() if name in known})
        if installed is None or not look(parse(TORCH)).usable:
            return _("PyTorch was not installed. The Python console tells more.")
        return ""

    def _installPackages(self) -> str:
        return installPackages(loadRequirements(REQUIREMENTS))

    def _installOpenVINO(self) -> str:
        return installPackages([parse(OPENVINO)])


def installPackages(requirements: list[Any]) -> str:
    """Install with pip what is missing of them; gives what went wrong, in words, else nothing."""
    try:
        packaging = importlib.import_module("slicer.packaging")
    except ModuleNotFoundError:  # Slicer 5.10
        missing = [str(one) for one in requirements if not look(one).usable]
        slicer.util.pip_install(missing)
    else:
        packaging.pip_ensure(
            requirements, skip_packages=list(SKIPPED), prompt_install=False, requester="RWKVUNetSegment"
        )
    left = [one.name for one in requirements if not look(one).usable]
    return _("{names}: not installed. The Python console tells more.").format(names=", ".join(left)) if left else ""


def _ask(text: str) -> bool:
    return bool(slicer.util.confirmOkCancelDisplay(text, _("RWKV-UNet: installation")))


def pipIsBusy() -> bool:
    """Whether somebody installs something already."""
    try:
        packaging: Any = importlib.import_module("slicer.packaging")
    except ModuleNotFoundError:
        return False
    return bool(packaging.isPipInstallInProgress())


def _extensionIsInstalled() -> bool:
    model = getattr(slicer.app, "extensionsManagerModel", None)  # None in a Slicer that was built without it
    return model is not None and model() is not None and bool(model().isExtensionInstalled("PyTorch"))


def _hasNvidiaGPU() -> bool:
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia/version").exists()


def _markedBy() -> int:
    """Process id of the Slicer that began an installation; 0 when none did."""
    try:
        return int(qt.QSettings().value(_MARKER) or 0)
    except (TypeError, ValueError):
        return 0
