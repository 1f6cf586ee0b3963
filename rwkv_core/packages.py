"""Packages that are not always there, or that take long to import."""

import io
import warnings
from contextlib import redirect_stderr
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
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


PACKAGES = ("torch", "numpy", "SimpleITK", "pydantic", "safetensors", "huggingface_hub", "openvino")
"""Whose versions say what an installation can do."""


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


def installed_version(package: str) -> str | None:
    """Give the version of a package, which is not imported; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def why_torch_fails() -> str:
    """Say why PyTorch, which is installed, cannot be used; empty where it can.

    PyTorch 2.2, built for NumPy 1, imports under NumPy 2, and then takes no arrays.
    """
    noise = io.StringIO()  # NumPy writes a page about it
    try:
        with redirect_stderr(noise), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import numpy as np
            import torch
    except Exception as error:  # missing system libraries, a file that is damaged, ...
        return f"PyTorch is installed, but does not start on this machine ({' '.join(str(error).split())[:200]})"
    try:
        torch.from_numpy(np.zeros(1, np.float32))
    except RuntimeError as error:
        return (
            f"PyTorch {torch.__version__} and NumPy {np.__version__} do not go together ({error}); on Macs with "
            "Slicer's Intel build there is no newer one, and training needs another computer"
        )
    return ""


def require_torch(what: str) -> None:
    """Refuse in words where PyTorch is missing, or cannot be used.

    Args:
        what: that needs it, such as "Importing a checkpoint".

    Raises:
        MissingPackageError: saying how to get it, or what is wrong with it.
    """
    if not is_installed("torch"):
        raise missing(what, "torch")
    if reason := why_torch_fails():
        raise MissingPackageError(f"{what} needs PyTorch: {reason}.", hint="Install PyTorch anew, a newer one.")


def missing(what: str, module: str | None) -> MissingPackageError:
    """Make the error for what cannot be done without a module, which `ImportError.name` gives."""
    package = (module or "").partition(".")[0]
    title, extra = _EXTRAS.get(package, (package or "a package", ""))
    requirement = f"'{DISTRIBUTION}[{extra}]'" if extra else DISTRIBUTION
    return MissingPackageError(
        f"{what} needs {title}, which is not installed.", hint=f"Install it: pip install {requirement}."
    )
