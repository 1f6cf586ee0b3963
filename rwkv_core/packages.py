"""Packages that are not always there, or that take long to import."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from rwkv_core.errors import MissingPackageError

DISTRIBUTION = "rwkv-unet-segment"

_EXTRAS = {
    "torch": ("PyTorch", "torch"),
    "lightning": ("Lightning", "train"),
    "monai": ("MONAI", "train"),
    "h5py": ("h5py", "train"),
    "yaml": ("PyYAML", "train"),
    "tensorboard": ("TensorBoard", "train"),
    "filelock": ("filelock", "train"),
    "distributed": ("Dask", "dask"),
    "nncf": ("NNCF", "int8"),
}
"""What may be missing: its name for people, and the extra that installs it."""


class LazyModule:
    """A module that is imported when something of it is first used.

    Args:
        name: as for `import`.
    """

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


def is_installed(package: str) -> bool:
    """Tell whether a package can be found; it is not imported."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # something took its place among the loaded modules
        return False


def require_torch(what: str) -> None:
    """Refuse in words where PyTorch is missing.

    Args:
        what: that needs it, such as "Importing a checkpoint".

    Raises:
        MissingPackageError: saying how to get it.
    """
    if not is_installed("torch"):
        raise missing(what, "torch")


def missing(what: str, module: str | None) -> MissingPackageError:
    """Make the error for what cannot be done without a module, which `ImportError.name` gives."""
    package = (module or "").partition(".")[0]
    title, extra = _EXTRAS.get(package, (package or "a package", ""))
    requirement = f"'{DISTRIBUTION}[{extra}]'" if extra else DISTRIBUTION
    return MissingPackageError(
        f"{what} needs {title}, which is not installed.", hint=f"Install it: pip install {requirement}."
    )
