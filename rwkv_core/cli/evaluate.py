"""`rwkv-unet evaluate`: how well a model does on a labelled data set."""

import argparse
from pathlib import Path

from rwkv_core.cli.terminal import Console, print_json
from rwkv_core.cli.train import require_training


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command and its options."""
    parser = subparsers.add_parser(
        "evaluate",
        help="compare a model's segmentations with labels",
        description="Segments the labelled cases of a data set and gives DSC and HD95 per class and case, by a "
        "stricter convention and by the paper's.",
    )
    parser.add_argument("model", metavar="MODEL", help="id or folder of a model")
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="folder or datalist; see docs/training.md")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="write evaluation.csv and evaluation.json here"
    )
    parser.add_argument("--save", action="store_true", help="also write the segmentations, into DIR/segmentations")
    parser.add_argument(
        "--split", choices=("auto", "train", "validation", "test", "all"), default="auto",
        help="auto: test, else validation, else all (default)",
    )  # fmt: skip
    parser.add_argument(
        "--paper", action="store_true", help="the published pipeline, and the layout of the paper's tables"
    )
    parser.add_argument("--channel", type=int, help="which channel of multi-channel images, counted from 0")
    parser.add_argument("--fold", type=int, help="of splits_final.json, or of a datalist")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print evaluation.json on standard output")
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Evaluate; 1 when a case could not be segmented."""
    require_training()
    from rwkv_core.bundle.config import Stretch
    from rwkv_core.bundle.store import load_bundle
    from rwkv_core.cli import FAILED, OK
    from rwkv_core.errors import InputError
    from rwkv_core.training.datasets import open_dataset
    from rwkv_core.training.evaluation import document, evaluate, paper_table, table, write_report

    if options.save and options.output is None:
        raise InputError("--save needs a folder.", hint="Name one with -o DIR.")
    console = Console(highlight=False, stderr=True, soft_wrap=True)
    bundle = load_bundle(options.model)
    dataset = open_dataset(options.dataset, options.fold)
    stretched = bundle.config.preprocessing is not None and isinstance(bundle.config.preprocessing.resampling, Stretch)
    with console.status("") as status:
        result = evaluate(
            bundle, dataset, split=options.split, mode="paper" if options.paper and stretched else "best",
            device=options.device, save=options.output / "segmentations" if options.save else None,
            channel=options.channel,
            progress=lambda done, total, case: status.update(f"Evaluating: {done} of {total} cases  {case}"),
        )  # fmt: skip
    if options.output is not None:
        write_report(options.output, result)
    if options.json:
        print_json(document(result))
    else:
        out = Console(highlight=False)
        out.print(paper_table(result) if options.paper else table(result))
        if not result.spacing_known:
            out.print("The files have no spacing: HD95 is in voxels.", style="yellow")
    for case, reason in result.failed.items():
        console.print(f"{case} failed: {reason}", style="bold red", markup=False)
    return FAILED if result.failed else OK
