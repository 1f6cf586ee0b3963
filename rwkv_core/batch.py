"""Which files a batch reads and which it writes: for the command line and for the worker."""

from collections.abc import Sequence
from pathlib import Path

from rwkv_core.errors import InputError
from rwkv_core.volume import INPUT_EXTENSIONS, OUTPUT_EXTENSIONS, find_volumes, is_dicom_folder


def plan(inputs: Sequence[Path], output: Path) -> list[tuple[Path, Path]]:
    """Pairs of input and output.

    Raises:
        InputError: when a folder holds no volume, or two inputs would be written to one file.
    """
    sources = []
    for path in inputs:
        if path.is_dir() and not is_dicom_folder(path):
            found = find_volumes(path)
            if not found:
                raise InputError(
                    f"{path} holds no volume.", hint=f"Give a folder of DICOM or of {', '.join(INPUT_EXTENSIONS)}."
                )
            sources += found
        else:
            sources.append(path)
    extension = next((e for e in OUTPUT_EXTENSIONS if output.name.lower().endswith(e)), None)
    if extension and not output.is_dir():
        if len(sources) > 1:
            raise InputError(f"{len(sources)} volumes cannot go into one file.", hint="Give a folder with -o.")
        return [(sources[0], output)]
    jobs = [(source, output / f"{stem(source)}.seg.nrrd") for source in sources]
    targets = [target for _, target in jobs]
    twice = sorted({str(s) for s, t in jobs if targets.count(t) > 1})
    if twice:
        raise InputError(
            f"These inputs have one name and would overwrite each other's result: {', '.join(twice)}.",
            hint="Segment them in separate runs, with different output folders.",
        )
    return jobs


def stem(path: Path) -> str:
    """The file's name without its extension, or the folder's name."""
    lower = path.name.lower()
    for extension in sorted((*INPUT_EXTENSIONS, *OUTPUT_EXTENSIONS), key=len, reverse=True):
        if lower.endswith(extension) and not path.is_dir():
            return path.name[: -len(extension)]
    return path.name
