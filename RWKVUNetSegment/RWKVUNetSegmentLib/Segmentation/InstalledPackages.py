"""Which Python packages are installed, found without importing them: an import could crash Slicer or lock files."""

import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

_IMPORTED_AS = {"pillow": "PIL", "PyYAML": "yaml"}
"""Packages whose modules have other names."""


@dataclass(frozen=True)
class PackageState:
    """One package.

    Attributes:
        version: empty when it is not installed, or its version cannot be told.
        missing: it is not installed at all.
        broken: why it cannot be used although something of it is there; empty when it can.
    """

    version: str = ""
    missing: bool = False
    broken: str = ""

    @property
    def usable(self) -> bool:
        """Whether it is there, and new enough."""
        return not self.missing and not self.broken


def look(requirement: Any, anew: bool = True) -> PackageState:
    """Give the state of one requirement, as `parse` gives it.

    Args:
        anew: also see what has been installed since Python listed its folders last; for the first of several.
    """
    name = requirement.name
    if anew:
        importlib.invalidate_caches()
    try:
        version = _version(name)
    except importlib.metadata.PackageNotFoundError:
        return PackageState(missing=True)
    except Exception as error:  # a half-written dist-info raises almost anything
        return PackageState(
            broken=_("{name}: its record of installation is damaged ({error}).").format(name=name, error=error)
        )
    if not version:
        return PackageState(broken=_("{name}: its record of installation is damaged.").format(name=name))
    try:
        found = importlib.util.find_spec(_IMPORTED_AS.get(name, name)) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        return PackageState(
            version, broken=_("{name} {version}: its files are gone.").format(name=name, version=version)
        )
    if not requirement.specifier.contains(version, prereleases=True):
        return PackageState(
            version,
            broken=_("{name} {version} does not fit: {wanted} is needed.").format(
                name=name, version=version, wanted=requirement.specifier
            ),
        )
    return PackageState(version)


def _version(name: str) -> str:
    """Give what importlib.metadata.version gives, in a fraction of its time: license and description are not parsed."""
    record = importlib.metadata.distribution(name)
    header, _sep, _rest = (record.read_text("METADATA") or record.read_text("PKG-INFO") or "").partition("\n\n")
    found = re.search(r"^Version:\s*(\S+)", header, re.MULTILINE)
    return found.group(1) if found else ""


def parse(requirement: str) -> Any:
    """Give a packaging.requirements.Requirement. Slicer 5.10 has that library inside pip only."""
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:
        from pip._vendor.packaging.requirements import Requirement  # type: ignore[assignment]  # the same, older
    return Requirement(requirement)


def loadRequirements(path: Path) -> list[Any]:
    """Give the requirements of a requirements.txt; comments and options of pip are passed over."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [parse(line) for line in lines if line and not line.startswith("-")]
