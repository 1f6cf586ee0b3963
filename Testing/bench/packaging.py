"""slicer.packaging (a stand-in with Slicer's signatures): checks what is installed, records what would be installed,
and never installs. `installed` are the calls of pip_install; `failure` is raised by the next one, as pip would fail."""

import importlib.metadata
import types
from pathlib import Path

import slicer
from packaging.requirements import Requirement

installed = []
missing = set()
"""Names of packages that pip_check is to call missing, whatever is installed."""
failures = []


def onInstall(call):
    """What a test wants to happen while pip works; replaced by it."""


def load_requirements(path):
    with Path(path).open(encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def _requirements(given):
    if isinstance(given, Requirement):
        return [given]
    if isinstance(given, str):
        return [Requirement(part) for part in given.split()] if ";" not in given else [Requirement(given)]
    return [Requirement(item) if isinstance(item, str) else item for item in given]


def _isSatisfied(requirement):
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    if requirement.name.lower() in missing:
        return False
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return version in requirement.specifier


def pip_check(req, _seen=None):
    return all(map(_isSatisfied, _requirements(req)))


def isPipInstallInProgress():
    return False


def pip_install(
    requirements,
    constraints=None,
    no_deps_requirements=None,
    skip_packages=None,
    blocking=True,
    show_progress=True,
    requester=None,
    logCallback=None,
    completedCallback=None,
):
    if skip_packages is not None and (no_deps_requirements is not None or not blocking):
        raise ValueError("skip_packages requires blocking=True and no no_deps_requirements")
    call = types.SimpleNamespace(
        requirements=requirements.split() if isinstance(requirements, str) else list(map(str, requirements)),
        constraints=constraints,
        skip_packages=skip_packages,
        requester=requester,
    )
    installed.append(call)
    onInstall(call)
    if failures:
        raise failures.pop(0)
    for requirement in _requirements([text for text in call.requirements if text[0] != "-"]):
        missing.discard(requirement.name.lower())
    return [] if skip_packages is not None else None


def pip_uninstall(requirements, **kwargs):
    raise RuntimeError("The bench uninstalls nothing.")


def pip_ensure(
    requirements,
    constraints=None,
    skip_packages=None,
    prompt_install=True,
    prompt_restart=True,
    requester=None,
    skip_in_testing=True,
    show_progress=True,
):
    wanted = [r for r in _requirements(requirements) if not pip_check(r)]
    if not wanted or (skip_in_testing and slicer.app.testingEnabled()):
        return None
    if prompt_install:
        title = f"{requester} - Install Python Packages" if requester else "Install Python Packages"
        count = "1 Python package needs" if len(wanted) == 1 else f"{len(wanted)} Python packages need"
        message = f"{count} to be installed.\n\nThis will modify Slicer's Python environment. Continue?"
        details = "\n".join(f"- {r}" for r in wanted)
        if not slicer.util.confirmOkCancelDisplay(message, title, detailedText=details):
            raise RuntimeError("User declined package installation")
    return pip_install([str(r) for r in wanted], constraints, None, skip_packages, requester=requester)


def clear():
    """Forgets what the last test did."""
    for record in (installed, missing, failures):
        record.clear()


PUBLIC = (
    "load_requirements",
    "pip_check",
    "pip_ensure",
    "pip_install",
    "pip_uninstall",
    "isPipInstallInProgress",
)
