"""What the worker needs in Slicer's Python, what of it is there, and how it gets there: on a click, never by itself.

Two rows: packages that every segmentation needs, of which OpenVINO is the largest; and PyTorch, through Slicer's
extension of that name, for NVIDIA GPUs, training and imports of .pth files.
"""

import importlib
import importlib.metadata
import inspect
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from RWKVUNetSegmentLib.EventLoop import Waiter
from RWKVUNetSegmentLib.Segmentation.ImportCheck import ImportCheck
from RWKVUNetSegmentLib.Segmentation.InstalledPackages import loadRequirements, look, parse
from RWKVUNetSegmentLib.Signal import Signal

REQUIREMENTS = Path(__file__).resolve().parents[2] / "Resources" / "requirements.txt"
TORCH = "torch>=2.2"

KEPT = ("SimpleITK", "vtk", "numpy", "torch", "torchvision")
"""Packages that stay as Slicer and the PyTorch extension brought them: pip's constraints say so."""

_PROBE = "from rwkv_core.inference.segmenter import Segmenter; import huggingface_hub, openvino, pydantic, safetensors"
"""What a child process imports once after every change, before the packages count as ready."""

_TORCH_PROBE = "from rwkv_core.packages import why_torch_fails; raise SystemExit(why_torch_fails() or 0)"
"""The same for PyTorch: some versions import beside Slicer's NumPy, and then take no arrays."""

_MARKER = "RWKVUNetSegment/InstallationBegunBy"
"""Setting: process id of the Slicer that began an installation and did not end it, then what was agreed to."""

_PROBED, _TORCH_PROBED = "RWKVUNetSegment/ImportedWith", "RWKVUNetSegment/TorchImportedWith"
"""Settings: the versions with which the probes succeeded."""


class RequirementState:
    """What state a requirement can be in."""

    MISSING = "missing"
    INSTALLING = "installing"
    CHECKING = "checking"
    READY = "ready"
    BROKEN = "broken"


@dataclass(frozen=True)
class Requirement:
    """One thing that is needed, or that helps.

    Attributes:
        name: "packages" or "torch".
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
    """Looks at and installs the requirements. Nothing is imported into Slicer to look.

    Attributes:
        changed: `Signal`, after each change.
    """

    def __init__(self) -> None:
        self.changed = Signal()
        self._installing = ""
        self._states: tuple[Requirement, ...] | None = None
        self._packagesCheck = ImportCheck(_PROBE, _PROBED, self.refresh)
        self._torchCheck = ImportCheck(_TORCH_PROBE, _TORCH_PROBED, self.refresh)

    def states(self) -> tuple[Requirement, ...]:
        """Give all requirements, in the order in which they are installed, as they were found last."""
        if self._states is None:
            importlib.invalidate_caches()
            self._states = (self._packages(), self._torch())
        return self._states

    def refresh(self) -> None:
        """Look again, as others may have installed something."""
        self._states = None
        self.changed.emit()

    def isValid(self) -> tuple[bool, str]:
        """Tell whether all that is not optional is READY, and else a sentence that says what is not."""
        for requirement in self.states():
            if not requirement.optional and requirement.state != RequirementState.READY:
                return False, f"{requirement.title}: {requirement.why}"
        return True, ""

    @property
    def busy(self) -> bool:
        """Whether something is being installed, or what segmenting needs is being checked."""
        return bool(self._installing) or self.checking

    @property
    def checking(self) -> bool:
        """Whether a child process is finding out if what segmenting needs can be used."""
        return any(
            requirement.state == RequirementState.CHECKING and not requirement.optional for requirement in self.states()
        )

    def wait(self) -> None:
        """Process events until it is known whether what segmenting needs can be used: for scripts and tests."""
        waiter = Waiter()

        def look() -> None:
            if not self.checking:
                waiter.finish()

        self.changed.connect(look)
        look()
        waiter.wait()
        self.changed.disconnect(look)

    def canInstall(self) -> tuple[bool, str]:
        """Tell whether `install` would bring what segmenting lacks, and else why not."""
        valid, reason = self.isValid()
        if valid:
            return False, _("Nothing is missing.")
        if self.busy:
            return False, reason
        if self.restartPending:
            return False, _("Slicer must be restarted to go on with the installation. The button is under Setup.")
        return True, ""

    def install(self, confirm: Callable[[str], bool] | None = None, torch: bool = False) -> tuple[bool, str]:
        """Install what is missing, in order; blocks, with Slicer's own progress dialogs. Main thread, on a click.

        Workers must be ended before: they hold files that pip has to replace.

        Args:
            confirm: gets a text that says what will be done; False stops it. None asks with Slicer's dialog.
            torch: also install PyTorch where that is optional.

        Returns:
            Whether all is there now, and else a sentence that says what is not and what to do; an empty one when the
            user did not want it, or the last check is still going on. Never raises.
        """
        self.refresh()
        wanted = [
            requirement
            for requirement in self.states()
            if requirement.state in _TO_INSTALL and (torch or not requirement.optional)
        ]
        if self._installing or pipIsBusy():
            return False, _("Another installation is running. Wait until it is over.")
        if wanted and not (confirm or _ask)(self._announcement(wanted)):
            return False, ""
        steps = {"packages": self._installPackages, "torch": self._installTorch}
        settings = qt.QSettings()
        settings.setValue(
            _MARKER, " ".join([str(os.getpid()), *(requirement.name for requirement in wanted)]) if wanted else ""
        )
        self._endChecks()  # on Windows, pip cannot replace what they have open
        for requirement in wanted:
            self._installing = requirement.name
            self.refresh()
            try:
                problem = steps[requirement.name]()
            except Exception as error:  # of pip, of the network, of another extension: all are told
                logging.exception("RWKVUNetSegment: %s could not be installed", requirement.title)
                problem = _("{title} could not be installed: {error}. The Python console tells more.").format(
                    title=requirement.title, error=str(error).rstrip(".")
                )
            finally:
                self._installing = ""
                self._packagesCheck.forget()
                self._torchCheck.forget()
                self.refresh()
            if problem:
                return False, problem
        settings.remove(_MARKER)
        self.refresh()
        return self.isValid()[0], "" if self.checking else self.isValid()[1]

    @property
    def torchOffered(self) -> bool:
        """Whether PyTorch would add something and is not there."""
        return any(requirement.name == "torch" and requirement.state in _TO_INSTALL for requirement in self.states())

    @property
    def restartPending(self) -> bool:
        """The PyTorch extension is installed, and Slicer must be restarted to load it."""
        return not hasattr(slicer.modules, "pytorchutils") and _extensionIsInstalled()

    def resume(self) -> tuple[bool, str]:
        """After the restart, go on with what was agreed to before it; nothing where there is nothing to go on with."""
        pid, agreed = _markedBy()
        if pid in (0, os.getpid()) or self.restartPending:
            return True, ""
        qt.QSettings().remove(_MARKER)  # once: a second failure waits for a click
        missing = {requirement.name for requirement in self.states() if requirement.state in _TO_INSTALL}
        if not missing & set(agreed):
            return True, ""
        return self.install(confirm=lambda text: True, torch="torch" in agreed)

    def cleanup(self) -> None:
        """Module reload or quit."""
        self.changed.clear()
        self._endChecks()

    def _endChecks(self) -> None:
        self._packagesCheck.end()
        self._torchCheck.end()

    def _packages(self) -> Requirement:
        title = _("OpenVINO and Python packages")
        found = {each.name: look(each, anew=False) for each in loadRequirements(REQUIREMENTS)}
        missing = [name for name, state in found.items() if state.missing]
        broken = [state.broken for state in found.values() if state.broken]
        if broken:
            return self._requirement(
                "packages", title, RequirementState.BROKEN, " ".join([*broken, _("Press Install.")])
            )
        if missing:
            why = _("{names} not installed. Press Install.").format(names=", ".join(missing))
            return self._requirement("packages", title, RequirementState.MISSING, why)
        why = ", ".join(f"{name} {state.version}" for name, state in found.items())
        usable = self._usable(self._packagesCheck, why)
        if usable:
            return self._requirement("packages", title, RequirementState.READY, why)
        if usable is None:
            return self._requirement("packages", title, RequirementState.CHECKING, _beingChecked())
        why = _("installed, but cannot be used: {reason} Press Install to install it again.")
        return self._requirement(
            "packages", title, RequirementState.BROKEN, why.format(reason=self._packagesCheck.failure)
        )

    def _torch(self) -> Requirement:
        title, broken = _("GPU and training: PyTorch"), ""
        found = look(parse(TORCH), anew=False)
        if found.usable:
            usable = self._usable(self._torchCheck, found.version)
            if usable:
                return self._requirement("torch", title, RequirementState.READY, found.version, optional=True)
            if usable is None:
                return self._requirement("torch", title, RequirementState.CHECKING, _beingChecked(), optional=True)
            broken = self._torchCheck.failure
        if found.missing:
            if self.restartPending:
                why = _("its extension is installed. Restart Slicer to go on.")
            elif hasNvidiaGPU():
                why = _("not installed. An NVIDIA card was found: with PyTorch it segments many times faster.")
            else:
                why = _("not installed. Needed for training and for importing .pth files only.")
            return self._requirement("torch", title, RequirementState.MISSING, why, optional=True)
        why = _("{reason} Uninstall it in the module PyTorch Utils, restart Slicer, and press Install.")
        return self._requirement(
            "torch", title, RequirementState.BROKEN, why.format(reason=broken or found.broken), optional=True
        )

    def _usable(self, check: ImportCheck, versions: str) -> bool | None:
        """Tell whether a child process could import what is there; None while one, or pip, is at work."""
        waits = check is self._torchCheck and self._packagesCheck.running  # one after the other: Slicer just began
        if self._installing or waits:
            return None
        return check.passed(f"{versions}, Slicer {slicer.app.revision}, {_ownCopy()}")

    def _requirement(self, name: str, title: str, state: str, why: str, optional: bool = False) -> Requirement:
        if name == self._installing:
            return Requirement(name, title, RequirementState.INSTALLING, _("being installed …"), optional)
        return Requirement(name, title, state, why, optional)

    def _announcement(self, wanted: list[Requirement]) -> str:
        lines = {
            "packages": _("Python packages, some 60 MB: {names}").format(
                names=", ".join(str(requirement) for requirement in loadRequirements(REQUIREMENTS))
            ),
            "torch": _("PyTorch, up to some gigabytes"),
        }
        if not hasattr(slicer.modules, "pytorchutils"):
            lines["torch"] = _("the Slicer extension PyTorch; then Slicer must be restarted, and PyTorch follows")
        things = "\n".join(f"- {lines[requirement.name]}" for requirement in wanted)
        return _(
            "This will be downloaded and installed into Slicer:\n\n{things}\n\nIt can take minutes. Go on?"
        ).format(things=things)

    def _installTorch(self) -> str:
        if not hasattr(slicer.modules, "pytorchutils"):
            return self._installExtension()
        import PyTorchUtils

        logic = PyTorchUtils.PyTorchUtilsLogic()
        keywords = {"askConfirmation": False, "torchVersionRequirement": str(parse(TORCH).specifier)}
        known = inspect.signature(logic.installTorch).parameters
        installed = logic.installTorch(**{name: value for name, value in keywords.items() if name in known})
        if installed is None or not look(parse(TORCH)).usable:
            return _("PyTorch was not installed. The Python console tells more.")
        return ""

    def _installExtension(self) -> str:
        if not _extensionIsInstalled():  # else only the restart is missing
            manager = slicer.app.extensionsManagerModel()
            if manager is not None:
                wasInteractive, manager.interactive = manager.interactive, False  # the question was asked already
                try:
                    manager.installExtensionFromServer("PyTorch", False)
                finally:
                    manager.interactive = wasInteractive
        if not _extensionIsInstalled():
            return _("The PyTorch extension was not installed. Check the connection, and try again.")
        return _("Restart Slicer to go on.")

    def _installPackages(self) -> str:
        return installPackages(loadRequirements(REQUIREMENTS), again=bool(self._packagesCheck.failure))


def _beingChecked() -> str:
    return _("it is being checked whether it can be used …")


_TO_INSTALL = (RequirementState.MISSING, RequirementState.BROKEN)


def installPackages(requirements: Sequence[Any], again: bool = False) -> str:
    """Install with pip what is missing of them, and anew what is broken.

    Args:
        again: install all of them anew, as they are there and cannot be used.

    Returns:
        What went wrong, in words, else nothing.
    """
    broken = [requirement for requirement in requirements if again or look(requirement).broken]
    missing = [
        str(requirement) for requirement in requirements if not look(requirement).usable and requirement not in broken
    ]
    with _constraints() as constraints:
        try:
            packaging = importlib.import_module("slicer.packaging")
        except ModuleNotFoundError:  # Slicer 5.10
            for names in ([*_ANEW, *map(str, broken)] if broken else [], missing):
                if names:
                    slicer.util.pip_install([*names, "-c", str(constraints)])
        else:
            if broken:
                packaging.pip_install([*_ANEW, *map(str, broken)], constraints=constraints, requester="RWKVUNetSegment")
            if missing:
                packaging.pip_ensure(
                    missing, constraints=constraints, prompt_install=False, requester="RWKVUNetSegment"
                )
    left = [requirement.name for requirement in requirements if not look(requirement).usable]
    return _("{names}: not installed. The Python console tells more.").format(names=", ".join(left)) if left else ""


_ANEW = ("--ignore-installed", "--no-deps")
"""Options of pip that write a package's files again, also where its record is damaged."""


@contextmanager
def _constraints() -> Generator[Path, None, None]:
    """Give a file for `pip install -c`: what is installed of `KEPT`, exactly as it is."""
    lines = []
    for name in KEPT:
        try:
            lines.append(f"{name}=={importlib.metadata.version(name)}\n")
        except Exception:  # not there, or a record that cannot be read: nothing to keep
            logging.debug("RWKVUNetSegment: no version of %s is known", name)
    with tempfile.TemporaryDirectory(prefix="RWKVUNetSegment-") as folder:
        path = Path(folder) / "constraints.txt"
        path.write_text("".join(lines), encoding="utf-8")
        yield path


def _ask(text: str) -> bool:
    return bool(slicer.util.confirmOkCancelDisplay(text, _("RWKV-UNet: installation")))


def pipIsBusy() -> bool:
    """Tell whether somebody installs something already."""
    try:
        packaging: Any = importlib.import_module("slicer.packaging")
    except ModuleNotFoundError:
        return False
    return bool(packaging.isPipInstallInProgress())


def hasNvidiaGPU() -> bool:
    """Tell whether the computer has an NVIDIA card, as far as its driver says."""
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia/version").exists()


def _extensionIsInstalled() -> bool:
    model = getattr(slicer.app, "extensionsManagerModel", None)  # None in a Slicer that was built without it
    return model is not None and model() is not None and bool(model().isExtensionInstalled("PyTorch"))


def _ownCopy() -> str:
    """Say where the worker's library lies: another copy is checked anew."""
    spec = importlib.util.find_spec("rwkv_core")
    return str(spec.origin) if spec is not None else ""


def _markedBy() -> tuple[int, tuple[str, ...]]:
    """Process id of the Slicer that began an installation, 0 when none did; and what the user agreed to."""
    words = str(qt.QSettings().value(_MARKER) or "").split()
    try:
        return int(words[0]), tuple(words[1:])
    except (IndexError, ValueError):
        return 0, ()
