"""Writes the share folder that the terminology and colour logics read: a small one of our own.

Slicer's own holds hundreds of anatomical terms; tests need the files' names and form, and a few terms. The codes are
SNOMED CT's (categories and types as in Slicer's general anatomy list).
"""

import colorsys
import json
from pathlib import Path

SCHEMAS = "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/schemas/"


def _code(value, meaning):
    return {"CodingSchemeDesignator": "SCT", "CodeValue": value, "CodeMeaning": meaning}


def _type(value, meaning, color, modifiers=()):
    entry = {**_code(value, meaning), "3dSlicerLabel": meaning.lower()}
    if modifiers:
        entry["Modifier"] = [
            {**_code(*m), "3dSlicerLabel": f"{m[1]} {meaning}".lower(), "recommendedDisplayRGBValue": color}
            for m in modifiers
        ]
    else:
        entry["recommendedDisplayRGBValue"] = color
    return entry


SIDES = (("7771000", "Left"), ("24028007", "Right"))
ANATOMY = [
    _type("10200004", "Liver", [221, 130, 101]),
    _type("78961009", "Spleen", [157, 108, 162]),
    _type("28231008", "Gallbladder", [139, 150, 98]),
    _type("15776009", "Pancreas", [249, 180, 111]),
    _type("69695003", "Stomach", [216, 132, 105]),
    _type("64033007", "Kidney", [185, 102, 83], SIDES),
    _type("15825003", "Aorta", [224, 97, 76]),
    _type("74281007", "Myocardium", [192, 104, 88]),
    _type("12738006", "Brain", [250, 250, 225]),
    _type("5366008", "Hippocampus", [240, 184, 115], SIDES),
]
TISSUE = [_type("85756007", "Tissue", [128, 174, 128]), _type("91727004", "Fat", [230, 220, 70])]


def write(share):
    """Writes `ColorFiles` and `Terminologies` below the folder `share`."""
    colors, terms = Path(share) / "ColorFiles", Path(share) / "Terminologies"
    for folder in (colors, terms):
        folder.mkdir(parents=True, exist_ok=True)
    lines = ["# GenericColors", "0 background 0 0 0 0"]
    for index in range(1, 64):
        red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(index * 0.618 % 1, 0.6, 0.9))
        lines.append(f"{index} Segment_{index} {red} {green} {blue} 255")
    (colors / "GenericColors.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    categories = [
        {"showAnatomy": True, **_code("123037004", "Anatomical Structure"), "Type": ANATOMY},
        {"showAnatomy": True, **_code("85756007", "Tissue"), "Type": TISSUE},
    ]
    for file, name in (
        ("SlicerGeneralAnatomy", "Segmentation category and type - 3D Slicer General Anatomy list"),
        ("DICOM-Master", "Segmentation category and type - DICOM master list"),
    ):
        context = {
            "SegmentationCategoryTypeContextName": name,
            "@schema": SCHEMAS + "segment-context-schema.json#",
            "SegmentationCodes": {"Category": categories},
        }
        _write(terms / f"SegmentationCategoryTypeModifier-{file}.term.json", context)
    regions = {
        "AnatomicContextName": "Anatomic codes - DICOM master list",
        "@schema": SCHEMAS + "anatomic-context-schema.json#",
        "AnatomicCodes": {"AnatomicRegion": [_code("818981001", "Abdomen"), _code("69536005", "Head")]},
    }
    _write(terms / "AnatomicRegionAndModifier-DICOM-Master.term.json", regions)


def _write(path, content):
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
