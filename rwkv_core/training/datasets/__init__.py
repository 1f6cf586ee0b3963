"""Data sets: one file per format, one description for all (`description`), checks before a run (`checking`)."""

from pathlib import Path

from rwkv_core.errors import InputError
from rwkv_core.training.datasets.collection import is_collection, read_collection
from rwkv_core.training.datasets.datalist import is_datalist, read_datalist
from rwkv_core.training.datasets.description import SPLITS, Case, Dataset, LabelClass, Sample, Split
from rwkv_core.training.datasets.files import PICTURE_EXTENSIONS, files_in, read_pair, stem_of
from rwkv_core.training.datasets.nnunet import is_nnunet, read_nnunet
from rwkv_core.training.datasets.pairs import is_pairs, read_pairs
from rwkv_core.training.datasets.slicer_export import is_slicer_export, read_slicer_export
from rwkv_core.training.datasets.transunet import is_acdc, is_synapse, read_acdc, read_synapse
from rwkv_core.volume import INPUT_EXTENSIONS

__all__ = ["SPLITS", "Case", "Dataset", "LabelClass", "Sample", "Split", "open_dataset"]

_LAYOUTS = (
    "a folder with images/ and labels/ (or masks/), or with NAME.nii.gz and NAME_seg.nii.gz; nnU-Net's raw layout "
    "(dataset.json, imagesTr, labelsTr); a MONAI datalist (.json); several of these in one (collection.json); "
    "TransUNet's Synapse (train_npz, test_vol_h5); ACDC (.h5); or NAME.seg.nrrd beside NAME.nrrd, from Slicer"
)


def open_dataset(path: str | Path, fold: int | None = None) -> Dataset:
    """Recognise and read the description of a data set; no image is read, but labels are, where nothing names classes.

    Args:
        path: a folder, or the JSON file of a datalist.
        fold: for the formats that have folds.

    Raises:
        InputError: when it is none of the known layouts, with what was expected.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist.", hint="Check the path of the data set.")
    if path.is_file() and path.suffix != ".json":
        raise InputError(f"{path} is a file, not a data set.", hint=f"Give {_LAYOUTS}.")
    if path.is_dir() and not any(path.iterdir()):
        raise InputError(f"The folder {path} is empty.", hint=f"Give {_LAYOUTS}.")
    if is_synapse(path):
        return read_synapse(path)
    if is_acdc(path):
        return read_acdc(path)
    if path.is_dir() and is_nnunet(path):
        return read_nnunet(path, fold)
    if is_collection(path):
        return read_collection(path, lambda part: open_dataset(part, fold))
    if is_datalist(path):
        return read_datalist(path, fold)
    if is_slicer_export(path):
        return read_slicer_export(path)
    if is_pairs(path):
        return read_pairs(path)
    raise InputError(f"{path} is no data set in a known layout.", hint=f"Give {_LAYOUTS}.")


def open_unlabelled(path: Path) -> Dataset:
    """Give all images in a folder (or in its folder ``images``); segmentations (.seg.nrrd) are left out.

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
