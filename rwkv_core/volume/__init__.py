"""Volumes: voxels and where they lie, read from and written to files."""

from rwkv_core.vocabulary import Region, size_in_words
from rwkv_core.volume.dicom import is_dicom_folder, series_address, split_address
from rwkv_core.volume.geometry import (
    STORED,
    Array,
    Matrix,
    SliceStack,
    Volume,
    check_geometry,
    choose_stack,
    directions_of,
    fine_stacks,
    ijk_to_ras_from_lps,
    lps_geometry,
    orientation_code,
    slice_stack,
    spacing_of,
)
from rwkv_core.volume.reading import INPUT_EXTENSIONS, find_volumes, read_labelmap, read_volume
from rwkv_core.volume.writing import (
    OUTPUT_EXTENSIONS,
    check_output,
    output_extension,
    write_segmentation,
    write_volume,
)

__all__ = [
    "INPUT_EXTENSIONS",
    "OUTPUT_EXTENSIONS",
    "STORED",
    "Array",
    "Matrix",
    "Region",
    "SliceStack",
    "Volume",
    "check_geometry",
    "check_output",
    "choose_stack",
    "directions_of",
    "find_volumes",
    "fine_stacks",
    "ijk_to_ras_from_lps",
    "is_dicom_folder",
    "lps_geometry",
    "orientation_code",
    "output_extension",
    "read_labelmap",
    "read_volume",
    "series_address",
    "size_in_words",
    "slice_stack",
    "spacing_of",
    "split_address",
    "write_segmentation",
    "write_volume",
]
