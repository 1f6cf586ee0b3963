"""What reading and writing share of SimpleITK: voxels without a copy, and its error messages in a readable form."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rwkv_core.errors import InputError
from rwkv_core.packages import LazyModule
from rwkv_core.volume.geometry import Array

if TYPE_CHECKING:
    import SimpleITK as sitk
else:
    sitk = LazyModule("SimpleITK")


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Keep ITK's warnings from the terminal: they name C++ files; what matters is said in `Volume.notes`."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def text_for_itk(path: Path) -> str | None:
    """Give the path as SimpleITK takes it: UTF-8 whatever the locale; None where its bytes are no UTF-8.

    SimpleITK ends the whole process at a text that is no Unicode, as Python gives names that the locale cannot read.
    """
    try:
        text = os.fsencode(path).decode() if os.name == "posix" else str(path)
        text.encode()
    except UnicodeError:
        return None
    return text


@contextmanager
def readable_by_itk(path: Path) -> Iterator[str]:
    """Give a text by which SimpleITK reads a file: its path, or that of a link to it.

    Raises:
        InputError: for a name that is no UTF-8, of a header whose voxels lie in a second file.
    """
    text = text_for_itk(path)
    if text is not None:
        yield text
        return
    if path.suffix.lower() in (".mhd", ".nhdr", ".hdr", ".img"):
        raise InputError(f"The name of {path} is not in UTF-8.", hint="Rename the file or its folder.")
    with tempfile.TemporaryDirectory(prefix="rwkv-unet-") as folder:
        link = Path(folder) / f"image{''.join(path.suffixes[-2:]).encode(errors='replace').decode()}"
        link.symlink_to(path.absolute())
        yield str(link)


class _Voxels:
    """The buffer of an image for numpy, which keeps this object, and so the image, as long as the array lives."""

    def __init__(self, image: sitk.Image):
        self._image = image
        view = sitk.GetArrayViewFromImage(image)
        address, _ = view.__array_interface__["data"]
        self.__array_interface__ = {**view.__array_interface__, "data": (address, False)}  # False: not read-only


def array_of(image: sitk.Image) -> Array:
    """Give the image's voxels (K, J, I), not copied; the array keeps them alive. Use the image no further."""
    return np.asarray(_Voxels(image))


def reason_of(error: RuntimeError) -> str:
    """Give the part of an ITK exception that tells a person something, without file and line of C++, no full stop."""
    text = re.split(r"ERROR: ", str(error))[-1].strip()
    if "Unable to determine ImageIO reader" in text:
        return "it is not an image in a known format, or its header is damaged"
    if text.startswith("MetaImageIO") and "cannot be read" in text:
        return "its voxels are missing or incomplete"  # ITK says "no such file", whatever happened
    if "[nrrd]" in text:  # a trace through functions, the cause last
        return re.sub(r"^\[nrrd\] \w+: ", "", text.splitlines()[-1]).rstrip(".")
    text = re.sub(r"^\w+ ?\(0x[0-9a-f]+\): ", "", text)
    return re.split(r"\.\s|\n", text)[0].rstrip(".")
