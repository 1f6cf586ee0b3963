"""Images without labels, for the consistency loss."""

from pathlib import Path

from rwkv_core.errors import InputError
from rwkv_core.training.datasets.description import Case, Dataset
from rwkv_core.training.datasets.files import PICTURE_EXTENSIONS, files_in, read_pair, stem_of
from rwkv_core.volume import INPUT_EXTENSIONS


def open_unlabelled(path: Path) -> Dataset:
    """All images in a folder (or in its folder ``images``); segmentations (.seg.nrrd) are left out.

    Raises:
        InputError: when there are none.
    """
    folder = path / "images" if (path / "images").is_dir() else path
    files = files_in(folder, (*INPUT_EXTENSIONS, *PICTURE_EXTENSIONS))
    cases = [
        Case(f"unlabelled-{stem_of(file)}", (file,), None, stem_of(file))
        for file in files
        if not file.name.lower().endswith(".seg.nrrd")
    ]
    if not cases:
        raise InputError(f"{path} holds no unlabelled images.", hint="Give a folder of volumes, or of PNG images.")
    return Dataset(path, "unlabelled images", (), tuple(cases), read_pair)
