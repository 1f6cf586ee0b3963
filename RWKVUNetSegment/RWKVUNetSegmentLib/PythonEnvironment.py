"""Which Python runs the child processes, and where rwkv_core is."""

import importlib.util
import shutil
import sys
from pathlib import Path

import slicer

_MODULE_FOLDER = Path(__file__).resolve().parents[1]


def makeCoreImportable() -> None:
    """Let `import rwkv_core` work: installed, it lies beside the module's scripts; in the source tree, one folder up.

    Whatever copy is already importable (a developer's, for instance) is left in place.
    """
    if importlib.util.find_spec("rwkv_core") is not None:
        return
    for folder in (_MODULE_FOLDER, _MODULE_FOLDER.parent):
        if (folder / "rwkv_core" / "__init__.py").is_file():
            sys.path.append(str(folder))
            return


def pythonProgram() -> str:
    """Find PythonSlicer, the interpreter with Slicer's packages. Never `sys.executable`: in Slicer, that is Slicer.

    Raises:
        FileNotFoundError: when the installation has none.
    """
    found = shutil.which("PythonSlicer") or shutil.which("PythonSlicer", path=str(Path(slicer.app.slicerHome) / "bin"))
    if not found:
        raise FileNotFoundError(f"PythonSlicer was not found in {slicer.app.slicerHome}/bin; reinstall Slicer.")
    return found
