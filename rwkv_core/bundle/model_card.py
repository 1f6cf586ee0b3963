"""The README.md of a bundle on a Hub: what it is for, what it segments, where it comes from, how to use it."""

import json

from rwkv_core.bundle.config import BundleConfig

_HUB_LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0",
}  # fmt: skip


def model_card(config: BundleConfig, repo: str, size: int) -> str:
    """Write Markdown with the YAML header that the Hub reads.

    Args:
        repo: "owner/name", for the lines that show how to load it.
        size: bytes of the weights file.
    """
    return "\n".join([_header(config), *_body(config, repo, size)]) + "\n"


def _header(config: BundleConfig) -> str:
    licence = config.licence.lower()
    tags = ["medical", "image-segmentation", "rwkv", config.architecture, "3d-slicer"]
    tags += [config.modality.lower()] if config.modality != "any" else []
    lines = [f"license: {licence if licence in _HUB_LICENCES else 'other'}"]
    if licence not in _HUB_LICENCES:
        lines.append(f"license_name: {json.dumps(config.licence[:96], ensure_ascii=False)}")  # JSON is YAML
    if config.kind == "segmentation":
        lines.append("pipeline_tag: image-segmentation")
    lines += ["library_name: rwkv-unet-segment", "tags:", *(f"- {tag}" for tag in tags)]
    return "\n".join(["---", *lines, "---", ""])


def _body(config: BundleConfig, repo: str, size: int) -> list[str]:
    parts = [
        f"# {config.title}",
        "",
        f"{config.description}".strip(),
        "",
        f"RWKV-UNet-{config.variant}, {size / 1e6:.1f} MB, input: "
        f"{'any modality' if config.modality == 'any' else config.modality}.",
        "",
        "## Intended use",
        "",
        "Research. Not for diagnosis or treatment: no regulatory body has cleared it, and a person has to check every "
        "result.",
        "",
    ]
    if config.classes:
        parts += ["## Classes", "", "| label | structure | code |", "|---|---|---|"]
        for c in config.classes:
            codes = [c.terminology.type, c.terminology.modifier] if c.terminology else []
            parts.append(
                f"| {c.value} | {c.name} | {', '.join(f'{code.scheme} {code.value}' for code in codes if code)} |"
            )
        parts.append("")
    if config.preprocessing is not None:
        parts += ["## Preprocessing", "", *_fenced(config.preprocessing.model_dump(mode="json"))]
    parts += ["## Training", ""]
    parts += _fenced(config.training) if config.training else ["Not recorded.", ""]
    parts += ["## How to load", "", *_usage(config, repo)]
    parts += ["## Licence", "", f"{config.licence[0].upper()}{config.licence[1:]}.", ""]
    if config.citation:
        parts += ["## Citation", "", config.citation]
    return parts


def _usage(config: BundleConfig, repo: str) -> list[str]:
    lines = [
        "```",
        "pip install rwkv-unet-segment",
        f"rwkv-unet models download {config.id} --repo {repo}@COMMIT",
    ]
    if config.kind == "segmentation":
        lines.append(f"rwkv-unet segment volume.nii.gz -o segmentation.seg.nrrd --model {config.id}")
    return [*lines, "```", "", "COMMIT is the hash of a commit of this repository, from its history.", ""]


def _fenced(content: object) -> list[str]:
    return ["```json", json.dumps(content, indent=2, ensure_ascii=False), "```", ""]
