"""DICOM series as volumes: which there are below a folder, and one of them read.

The headers are checked before voxels are read: sorting by file, ITK alone would close a gap, drop a damaged slice at
the end, shuffle the frames of an enhanced file, and straighten a tilted gantry without a word.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from rwkv_core.errors import InputError, Remedy
from rwkv_core.volume.dicom_frames import Frame, Header, is_dicom_file, read_header
from rwkv_core.volume.geometry import Matrix, Volume, ijk_to_ras_from_lps

_EVEN_FRACTION, _EVEN_MM = 0.01, 0.05
_SAME_MM = 0.001
_TILT_PIXELS = 0.5
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_ADDRESS = "series="


@dataclass(frozen=True)
class DicomVolume:
    """One volume among the DICOM files below a folder: a series, or a part of one (a time point, an echo, a stack).

    Attributes:
        key: what `--series` takes: the series' number, or its place in the list where numbers are not distinct; of
            several volumes in one series, with ".1", ".2" behind.
        series: SeriesInstanceUID.
        part: what tells it from the other volumes of its series, in words.
    """

    key: str
    series: str
    description: str
    modality: str
    part: str
    frames: tuple[Frame, ...]

    @property
    def folder(self) -> Path:
        """The deepest folder that holds all its files."""
        return Path(os.path.commonpath([frame.path.parent for frame in self.frames]))

    def __str__(self) -> str:
        rows, columns = self.frames[0].size
        count = len({frame.path for frame in self.frames})
        files = f"{count} {'file' if count == 1 else 'files'}"
        slices = "" if count == len(self.frames) else f"{len(self.frames)} slices, "
        parts = [
            self.modality or "no modality",
            self.description or "no description",
            *([self.part] if self.part else []),
        ]
        return f"number {self.key}, {', '.join(parts)}, {slices}{files}, {columns} x {rows}, UID {self.series}"


@dataclass(frozen=True)
class DicomFiles:
    """What lies below a folder.

    Attributes:
        volumes: sorted by series number.
        problems: sentences about series that are no volumes, by SeriesInstanceUID.
        damaged: files that are DICOM, or ought to be, and cannot be read.
        troubled: folders of the series in `problems`.
    """

    folder: Path
    volumes: tuple[DicomVolume, ...]
    problems: dict[str, InputError]
    damaged: tuple[Path, ...]
    troubled: tuple[Path, ...] = ()


def is_dicom_folder(path: Path) -> bool:
    """Tell whether `path` is a folder that holds a DICOM file itself, by content; a DICOMDIR counts."""
    try:
        return path.is_dir() and any(is_dicom_file(file) for file in path.iterdir() if file.is_file())
    except OSError:
        return False


def series_address(folder: Path, key: str) -> Path:
    """Give a path that names one volume of a DICOM folder, for lists of paths; `split_address` is its inverse."""
    return folder / f"{_ADDRESS}{key}"


def split_address(path: Path) -> tuple[Path, str | None]:
    """Give folder and key of a `series_address`; any other path as it is, and None."""
    if path.name.startswith(_ADDRESS) and path.parent.is_dir() and not path.exists():
        return path.parent, path.name.removeprefix(_ADDRESS)
    return path, None


def files_below(folder: Path) -> list[Path]:
    """Give all files below a folder, links to folders followed, hidden ones left out; dangling links are among them."""
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found)


def read_dicom_file(path: Path) -> Volume:
    """Read an enhanced multi-frame file.

    Raises:
        InputError: when it is a slice of a series, or holds no single volume.
    """
    header = read_header(path)
    if header is not None and not header.problem and len(header.frames) == 1:
        raise InputError(
            f"{path} is a single DICOM file.", hint=f"Give the folder with the whole series: {path.parent}."
        )
    found = _sorted_out(path, [] if header is None else [header], [])
    return _read(_chosen(found, None), path.name)


def read_dicom_folder(folder: Path, series: str | None = None) -> Volume:
    """Read one volume of the DICOM files below `folder`; structure sets, reports, segmentations are passed over.

    Slices are sorted by position. When they are shifted against each other (gantry tilt), the K axis of the volume is
    as oblique as the gantry was: voxels keep their values and their places.

    Args:
        folder: searched to the bottom.
        series: SeriesInstanceUID or key, when there are several volumes.

    Raises:
        InputError: for no volume or several, damaged or color slices, and slices that are no regular grid.
    """
    return _read(_chosen(find_dicom(folder), series), folder.name)


def find_dicom(folder: Path) -> DicomFiles:
    """Give all volumes below `folder`; only headers are read."""
    headers: list[Header] = []
    damaged: list[Path] = []
    others: list[Path] = []
    for file in files_below(folder):
        if not file.is_file() or not is_dicom_file(file):
            others.append(file)
            continue
        try:
            header = read_header(file)
        except InputError:
            damaged.append(file)
            continue
        if header is not None:
            headers.append(header)
    suffixes = Counter((header.path.parent, header.path.suffix.lower()) for header in headers)
    for file in others:  # an interrupted copy, a link whose target was never fetched
        beside = suffixes[file.parent, file.suffix.lower()] > 0
        if (beside and (not file.exists() or file.stat().st_size == 0)) or (
            file.suffix.lower() in _DICOM_SUFFIXES and any(parent == file.parent for parent, _ in suffixes)
        ):
            damaged.append(file)
    return _sorted_out(folder, headers, damaged)


def dicom_inputs(folder: Path) -> list[Path]:
    """List a path for every volume below `folder`: its folder where nothing else lies there, else a `series_address`.

    A series that is no volume, or whose files are damaged, is among them by its folder, to be refused by name.
    """
    found = find_dicom(folder)
    homes = Counter(volume.folder for volume in found.volumes)
    paths = []
    for volume in found.volumes:
        others = [other for other in homes if other != volume.folder and volume.folder in other.parents]
        alone = homes[volume.folder] == 1 and not others
        paths.append(volume.folder if alone else series_address(folder, volume.key))
    bad = {path.parent for path in found.damaged} - set(homes)
    return sorted({*paths, *bad, *(set(found.troubled) - set(homes))})


def frames_of(path: Path) -> tuple[Frame, ...]:
    """Give the frames that make the volume at a path, slice by slice as they lie in it; none where it is no DICOM.

    Args:
        path: a folder, a `series_address`, or a file.

    Raises:
        InputError: as the reading of that volume.
    """
    folder, series = split_address(path)
    if folder.is_dir():
        volume = _chosen(find_dicom(folder), series)
    elif is_dicom_file(path) and (header := read_header(path)) is not None:
        volume = _chosen(_sorted_out(path, [header], []), None)
    else:
        return ()
    return tuple(_regular_grid(volume.folder, volume.frames)[0])


def _sorted_out(folder: Path, headers: Sequence[Header], damaged: Sequence[Path]) -> DicomFiles:
    series = sorted(_series(headers), key=lambda group: (group[0].number.zfill(8), group[0].series))
    numbers = [group[0].number for group in series]
    distinct = all(numbers) and len(set(numbers)) == len(numbers)
    volumes: list[DicomVolume] = []
    problems: dict[str, InputError] = {}
    troubled: list[Path] = []
    for place, group in enumerate(series, 1):
        first, key = group[0], group[0].number if distinct else str(place)
        bad = [header for header in group if header.problem]
        if bad:
            names = _listed([header.path.name for header in bad])
            problems[first.series] = InputError(f"{folder}: {names} {bad[0].problem}.", hint=bad[0].hint)
            troubled.append(first.path.parent)
            continue
        parts = _parts([frame for header in group for frame in header.frames])
        for number, (words, frames) in enumerate(parts, 1):
            volumes.append(
                DicomVolume(
                    key if len(parts) == 1 else f"{key}.{number}", first.series, first.description, first.modality,
                    words, tuple(frames),
                )
            )  # fmt: skip
    return DicomFiles(folder, tuple(volumes), problems, tuple(damaged), tuple(troubled))


def _series(headers: Sequence[Header]) -> list[list[Header]]:
    """Files by series, wherever below the folder they lie; folders that repeat a place hold copies or time points."""
    groups: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        groups[header.series].append(header)
    found: list[list[Header]] = []
    for group in groups.values():
        places: dict[Path, list[Header]] = defaultdict(list)
        for header in group:
            places[header.path.parent].append(header)
        where = [{_place(frame) for header in place for frame in header.frames} for place in places.values()]
        found += places.values() if sum(map(len, where)) > len(set().union(*where)) else [group]
    return found


def _place(frame: Frame) -> tuple[float, ...]:
    return (*frame.position.round(2).tolist(), *frame.axes[:, 2].round(2).tolist())


def _chosen(found: DicomFiles, series: str | None) -> DicomVolume:
    folder = found.folder
    own = [volume for volume in found.volumes if any(frame.path.parent == folder for frame in volume.frames)]
    volumes = own or found.volumes  # what lies below is for batches where the folder itself holds a volume
    if not volumes and not found.problems:
        if found.damaged:
            raise InputError(
                f"{folder} holds DICOM files, but none is an image that can be read: {_names(found)}.",
                hint="They may be damaged. Copy or export the series again.",
            )
        raise InputError(
            f"{folder} holds DICOM files, but none is an image that can be read.",
            hint="They are no images (structure sets, reports, segmentations). Give the folder of the image series.",
        )
    if series is not None:
        right = [volume for volume in found.volumes if series in (volume.key, volume.series)]
        if series in found.problems and not right:
            raise found.problems[series]
        if len(right) > 1:
            raise _several(folder, right)
        if not right:
            raise InputError(f"{folder} holds no series {series}. It holds: {_listing(found.volumes)}.")
    else:
        if not volumes:
            raise next(iter(found.problems.values()))
        if len(volumes) > 1:
            raise _several(folder, volumes)
        right = list(volumes)
    near = {frame.path.parent for frame in right[0].frames}
    damaged = [file for file in found.damaged if file.parent in near]
    if damaged:
        raise InputError(
            f"{folder}: {_listed([file.name for file in damaged])} cannot be read; the series may be incomplete.",
            hint="Copy or export the series again.",
        )
    return right[0]


def _names(found: DicomFiles) -> str:
    return _listed([file.name for file in found.damaged])


def _several(folder: Path, volumes: Sequence[DicomVolume]) -> InputError:
    count = len({volume.series for volume in volumes})
    what = f"{count} series" if count == len(volumes) else f"{len(volumes)} volumes in {count} series"
    if count == 1:
        what = f"{len(volumes)} volumes in one series"
    return InputError(
        f"{folder} holds {what}: {_listing(volumes)}.",
        hint="Choose one by its number or UID, or give a folder with one series.",
        remedy=Remedy("choose series"),
    )


def series_listed(folder: Path) -> str:
    """Say which volumes the DICOM files below a folder hold: number, modality, description and size of each."""
    return _listing(find_dicom(folder).volumes)


def _listing(volumes: Sequence[DicomVolume]) -> str:
    return "; ".join(map(str, volumes))


def _parts(frames: list[Frame]) -> list[tuple[str, list[Frame]]]:
    """Give the volumes in one series, each with what tells it from the others.

    Frames that make one regular grid are one volume, whatever else tells them apart; else they are divided by size,
    pixel spacing and orientation, and, where several lie in one place, by what the headers call time, echo and so on.
    """
    shapes = _alike(frames)
    found: list[tuple[str, list[Frame]]] = []
    for group in shapes:
        words = _shape_words(group[0], shapes)
        split = [("", group)] if _is_grid(group) else _by_traits(group)
        found += [("; ".join(filter(None, (words, more))), part) for more, part in split]
    return found


def _alike(frames: Sequence[Frame]) -> list[list[Frame]]:
    groups: list[list[Frame]] = []
    for frame in frames:
        for group in groups:
            if _same_shape(frame, group[0]):
                group.append(frame)
                break
        else:
            groups.append([frame])
    return groups


def _same_shape(first: Frame, other: Frame) -> bool:
    return (
        first.size == other.size
        and np.allclose(first.spacing, other.spacing, rtol=1e-3)
        and np.allclose(first.axes, other.axes, atol=1e-3)
    )


def _shape_words(first: Frame, groups: Sequence[Sequence[Frame]]) -> str:
    """Say how the frames of a group differ from those of the other groups."""
    if len(groups) == 1:
        return ""
    others = [group[0] for group in groups]
    words = []
    if any(not np.allclose(first.axes, other.axes, atol=1e-3) for other in others):
        words.append(f"direction of slices {' '.join(f'{x:.2g}' for x in first.axes[:, 2])}")
    if any(not np.allclose(first.spacing, other.spacing, rtol=1e-3) for other in others):
        words.append(f"pixel spacing {first.spacing[0]:.3g} x {first.spacing[1]:.3g} mm")
    if any(first.size != other.size for other in others):
        words.append(f"size {first.size[1]} x {first.size[0]}")
    return "; ".join(words)


def _heights(frames: Sequence[Frame]) -> Matrix:
    return np.array([float(frames[0].axes[:, 2] @ frame.position) for frame in frames])


def _is_grid(frames: Sequence[Frame]) -> bool:
    try:
        _regular_grid(Path(), frames)
    except InputError:
        return False
    return True


def _by_traits(frames: list[Frame]) -> list[tuple[str, list[Frame]]]:
    """Frames divided by the fewest traits that leave one frame in every place; as they are, where none do."""
    names = [name for name in dict.fromkeys(name for frame in frames for name in frame.traits)
             if len({frame.traits.get(name) for frame in frames}) > 1]  # fmt: skip
    best: list[tuple[str, list[Frame]]] = []
    for count in (1, 2, 3):
        for chosen in combinations(names, count):
            groups: dict[tuple[str, ...], list[Frame]] = defaultdict(list)
            for frame in frames:
                groups[tuple(frame.traits.get(name, "none") for name in chosen)].append(frame)
            parts = [
                ("; ".join(f"{n} {v}" for n, v in zip(chosen, values, strict=True)), group)
                for values, group in groups.items()
            ]
            if len(parts) < len(frames) and all(_is_grid(part) and len(part) > 1 for _, part in parts):
                return parts
            if not best and all(_distinct(part) for _, part in parts) and len(parts) <= len(frames) // 2:
                best = parts
    return best if not _distinct(frames) and best else [("", frames)]


def _distinct(frames: Sequence[Frame]) -> bool:
    return len(frames) == 1 or bool(np.diff(np.sort(_heights(frames))).min() >= _SAME_MM)


def _read(volume: DicomVolume, name: str) -> Volume:
    from rwkv_core.volume.dicom_pixels import read_voxels  # here, for it brings pydicom and SimpleITK in

    frames, matrix = _regular_grid(volume.folder, volume.frames)
    return Volume(read_voxels(frames), matrix, name, volume.modality)


def _regular_grid(folder: Path, frames: Iterable[Frame]) -> tuple[list[Frame], Matrix]:
    """Give the slices in order along their normal, and the IJK to RAS matrix of their grid."""
    frames = list(frames)
    first = frames[0]
    axes = first.axes
    normal = axes[:, 2]
    frames = sorted(frames, key=lambda frame: float(normal @ frame.position))
    positions = np.array([frame.position for frame in frames])
    if len(frames) > 1:
        heights = positions @ normal
        _check_even(folder, frames, np.diff(heights))
        step = (positions[-1] - positions[0]) / (len(frames) - 1)
        straight = normal * (heights[-1] - heights[0]) / (len(frames) - 1)
        drift = float(np.linalg.norm(step - straight)) * (len(frames) - 1)
        if drift < _TILT_PIXELS * min(first.spacing):
            step = straight  # rounding of the positions, not a tilt
        _check_line(folder, frames, positions, step)
    else:
        step = normal * first.thickness
    thickness = float(np.linalg.norm(step))
    direction = np.column_stack((axes[:, 0], axes[:, 1], step / thickness)).ravel()
    return frames, ijk_to_ras_from_lps(frames[0].position.tolist(), (*first.spacing, thickness), direction.tolist())


def _check_even(folder: Path, frames: Sequence[Frame], steps: Matrix) -> None:
    where = int(steps.argmin())
    if steps[where] < _SAME_MM:
        raise InputError(
            f"{folder}: {_slice_name(frames, where)} and {_slice_name(frames, where + 1)} lie at the same position.",
            hint="The series may hold several time points, echoes or copies; put one of them into a folder of its own.",
        )
    spacing = float(np.median(steps))
    uneven = np.flatnonzero(np.abs(steps - spacing) > max(_EVEN_FRACTION * spacing, _EVEN_MM))
    if len(uneven):
        where = int(uneven[0])
        more = f" (and {len(uneven) - 1} more)" if len(uneven) > 1 else ""
        raise InputError(
            f"{folder}: slices are missing or unevenly spaced: from slice {where + 1} ({_slice_name(frames, where)}) "
            f"to slice {where + 2} ({_slice_name(frames, where + 1)}) it is {steps[where]:.2f} mm instead of "
            f"{spacing:.2f} mm{more}.",
            hint="Export the series again, complete; or load it in Slicer, which resamples it, and save the volume.",
        )


def _check_line(folder: Path, frames: Sequence[Frame], positions: Matrix, step: Matrix) -> None:
    """Tell whether every slice lies where an even step from the first one leads; heights were checked before."""
    off = positions - positions[0] - np.arange(len(frames))[:, None] * step
    apart = np.linalg.norm(off @ frames[0].axes[:, :2], axis=1)
    where = int(apart.argmax())
    if apart[where] > max(1.0, min(frames[0].spacing)):
        raise InputError(
            f"{folder}: slice {where + 1} ({_slice_name(frames, where)}) is shifted by {apart[where]:.1f} mm against "
            "the others, so they are not one volume.",
            hint="Put the slices of one stack into a folder of their own.",
        )


def _slice_name(frames: Sequence[Frame], where: int) -> str:
    frame = frames[where]
    alone = sum(other.path == frame.path for other in frames) == 1
    return frame.path.name if alone else f"{frame.path.name}, frame {frame.index + 1}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
