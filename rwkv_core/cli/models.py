"""`rwkv-unet models`: which models there are, and bringing, keeping and giving them."""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from rwkv_core.bundle.bundle import CONFIG_FILE, Bundle
from rwkv_core.bundle.catalogue import CATALOGUE_VARIABLE, Catalogue, load_catalogue
from rwkv_core.bundle.config import BundleConfig, parse_config
from rwkv_core.bundle.sources import Settings, Source, source_to_download, variable_name
from rwkv_core.bundle.store import HOME_VARIABLE, KnownModel, find_model, list_bundles, load_bundle, remove, user_store
from rwkv_core.cli.terminal import Console, print_json
from rwkv_core.errors import BundleError, InputError

_STYLES = {"shipped": "green", "installed": "green", "needs download": "yellow", "broken": "bold red"}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command and its options."""
    parser = subparsers.add_parser(
        "models",
        help="list, download, import, remove and publish models",
        description=f"Models lie in one folder per model, by default in your data folder; {HOME_VARIABLE} moves it.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--catalogue", type=Path, metavar="FILE", help=f"catalogue of your own (default: {CATALOGUE_VARIABLE})"
    )
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("--repo", metavar="OWNER/NAME[@REVISION]", help="Hugging Face repository")
    source.add_argument("--endpoint", metavar="URL", help="another server with the Hub's API (default: HF_ENDPOINT)")

    _list = actions.add_parser("list", parents=[common], help="all models and whether they are here")
    _list.add_argument("--json", action="store_true", help="print JSON")
    _list.set_defaults(func=run_list)

    info = actions.add_parser("info", parents=[common], help="everything about one model")
    info.add_argument("id", metavar="ID")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(func=run_info)

    download = actions.add_parser(
        "download",
        parents=[common, source],
        help="fetch a model from a Hub",
        description="Options outdo the environment (RWKV_UNET_REPO_ID=owner/name@revision and RWKV_UNET_SHA256_ID, "
        "with the model's id for ID), which outdoes the catalogue.",
    )
    download.add_argument("id", metavar="ID")
    download.add_argument("--revision", metavar="COMMIT", help="commit of the repository")
    download.add_argument("--sha256", metavar="HASH", help="that the weights file must have")
    download.add_argument("--overwrite", action="store_true", help="replace an imported or trained model of this id")
    download.set_defaults(func=run_download)

    _import = actions.add_parser(
        "import",
        parents=[common],
        help="take in a published checkpoint (.pth, .safetensors) or a model's folder",
        description="Reads a checkpoint of RWKV-UNet's authors, or a folder with config.json and model.safetensors.",
    )
    _import.add_argument("path", type=Path, metavar="FILE")
    described = _import.add_mutually_exclusive_group()
    described.add_argument("--as", dest="name", metavar="NAME", help="what a checkpoint is, e.g. synapse-b or synapse")
    described.add_argument("--config", type=Path, help=f"a {CONFIG_FILE} that describes a checkpoint")
    _import.add_argument("--id", help="keep it by another id")
    _import.add_argument("--overwrite", action="store_true", help="replace an installed model of this id")
    _import.set_defaults(func=run_import)

    _remove = actions.add_parser("remove", parents=[common], help="delete an installed model")
    _remove.add_argument("id", metavar="ID")
    _remove.set_defaults(func=run_remove)

    publish = actions.add_parser(
        "publish",
        parents=[common, source],
        help="put an installed model and its card into a Hub repository",
        description="Makes the repository if there is none. Needs an access token that may write: HF_TOKEN, or "
        "`hf auth login`.",
    )
    publish.add_argument("id", metavar="ID", help="id or folder of a model")
    publish.add_argument("--private", action="store_true", help="make a private repository")
    publish.add_argument(
        "--redistribution-permitted",
        action="store_true",
        help="needed where the weights' authors state no licence: you have their permission",
    )
    publish.set_defaults(func=run_publish)


def run_list(options: argparse.Namespace) -> int:
    """Print every bundle, as a table or as JSON."""
    catalogue = load_catalogue(options.catalogue)
    found = list_bundles(catalogue)
    if options.json:
        print_json([_summary(model) for model in found])
        return 0
    console = Console(highlight=False)
    table = Table("Model", "State", "What it segments", "Input", "Size (MB)", "Seconds")
    for column in table.columns[4:]:
        column.justify = "right"
    for model in found:
        seconds = model.entry.expected_seconds if model.entry else None
        table.add_row(
            model.id,
            f"[{_STYLES.get(model.state, 'default')}]{_state(model)}[/]",
            model.title,
            model.config.modality if model.config else "",
            f"{model.size / 1e6:.1f}" if model.size else "",
            f"{seconds:g}" if seconds else "",
        )
    console.print(table)
    console.print(f"Seconds: {catalogue.expected_seconds_are}.", markup=False, soft_wrap=True)
    console.print(f"Store: {user_store()}", markup=False, soft_wrap=True)
    for model in found:
        if model.reason:
            console.print(f"{model.id} is broken: {model.reason}", markup=False, soft_wrap=True)
    return 0


def run_info(options: argparse.Namespace) -> int:
    """Show one bundle, as lines or as JSON."""
    catalogue = load_catalogue(options.catalogue)
    model = find_model(options.id, catalogue)
    if options.json:
        config = model.config.model_dump(mode="json", exclude_none=True) if model.config else None
        print_json({**_summary(model), "config": config})
        return 0
    console = Console(highlight=False, soft_wrap=True)
    console.print(model.title, style="bold", markup=False)
    for name, value in _lines(model, catalogue):
        console.print(f"[cyan]{name + ':':14}[/]", end="")
        console.print(value, markup=False)
    if model.config and model.config.classes:
        table = Table("Label", "Structure", "Code")
        for c in model.config.classes:
            codes = [c.terminology.type, c.terminology.modifier] if c.terminology else []
            coded = ", ".join(f"{code.meaning} ({code.scheme} {code.value})" for code in codes if code)
            table.add_row(str(c.value), f"[rgb({','.join(map(str, c.color))})]■[/] {c.name}", coded)
        console.print(table)
    return 0


def run_download(options: argparse.Namespace) -> int:
    """Fetch one bundle, with a progress bar."""
    from rwkv_core.bundle.hub import download

    settings = Settings(options.repo, options.revision, options.endpoint, options.sha256)
    source = source_to_download(options.id, load_catalogue(options.catalogue), settings)
    console = Console(highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(options.id, total=None)
        bundle = download(
            options.id,
            source,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            overwrite=options.overwrite,
        )
    _print_installed(console, bundle)
    return 0


def run_import(options: argparse.Namespace) -> int:
    """Take in a checkpoint or a bundle's folder."""
    from rwkv_core.bundle.importing import folder_of_bundle, import_bundle, import_checkpoint

    console = Console(highlight=False, soft_wrap=True)
    folder = folder_of_bundle(options.path)
    if folder:
        if options.name or options.config:
            raise InputError("A model's folder describes itself: leave out --as and --config.")
        bundle = import_bundle(folder, bundle_id=options.id, overwrite=options.overwrite)
    else:
        catalogue = load_catalogue(options.catalogue)
        config = _own_config(options.config) if options.config else None
        bundle = import_checkpoint(
            options.path,
            catalogue,
            name=options.name,
            config=config,
            bundle_id=options.id,
            overwrite=options.overwrite,
        )
        if not options.name and not options.config and bundle.config.classes:
            console.print(
                f"Taken for {bundle.config.title}, by its size and number of classes. If it is something else, "
                "remove it, and say --as or --config.",
                markup=False,
            )
    _print_installed(console, bundle)
    return 0


def run_remove(options: argparse.Namespace) -> int:
    """Delete one bundle of the user's store."""
    remove(options.id)
    Console(highlight=False, soft_wrap=True).print(f"Removed {options.id}.", markup=False)
    return 0


def run_publish(options: argparse.Namespace) -> int:
    """Upload one bundle, and say what its catalogue entry needs."""
    from rwkv_core.bundle.hub import publish

    if not options.repo:
        raise InputError("Say where to publish: --repo owner/name.")
    bundle = load_bundle(options.id, catalogue=load_catalogue(options.catalogue))
    config = bundle.config
    if config.licence.startswith("not stated") and not options.redistribution_permitted:
        raise InputError(
            f"The licence of {config.id} is {config.licence}.",
            hint="Once they permit it, say --redistribution-permitted.",
        )
    console = Console(highlight=False, soft_wrap=True)
    done = publish(bundle, options.repo, endpoint=options.endpoint, private=options.private)
    entry = {"id": config.id, "repo": done.repo, "revision": done.revision, "sha256": done.sha256}
    console.print(f"Published {config.id}: {done.url}", markup=False)
    console.print("For a catalogue's entries:", markup=False)
    console.print(json.dumps(entry), markup=False)
    console.print(f"Or as a setting: {variable_name('REPO', config.id)}={done.repo}@{done.revision}", markup=False)
    return 0


def _own_config(path: Path) -> BundleConfig:
    try:
        return parse_config(path.read_bytes(), str(path))
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}.") from None


def _print_installed(console: Console, bundle: Bundle) -> None:
    console.print(f"Installed {bundle.config.id} ({bundle.config.title}) in {bundle.folder}.", markup=False)
    if bundle.config.kind == "encoder":
        console.print("It holds encoder weights only: a starting point for training.", markup=False)
    else:
        console.print(f"Use it with: rwkv-unet segment IN -o OUT --model {bundle.config.id}", markup=False)


def _state(model: KnownModel) -> str:
    if model.state == "installed" and model.origin and model.origin.how != "local":
        return f"installed ({model.origin.how})"
    return model.state


def _summary(model: KnownModel) -> dict[str, Any]:
    """Tell what --json says of one bundle; None where nothing is known."""
    config, entry = model.config, model.entry
    source = model.source or Source(None, None, "", None, trusted=False)
    return {
        "id": model.id,
        "state": model.state,
        "reason": model.reason or None,
        "origin": model.origin.how if model.origin else None,
        "folder": str(model.bundle.folder) if model.bundle else None,
        "title": model.title,
        "kind": config.kind if config else None,
        "variant": config.variant if config else None,
        "modality": config.modality if config else None,
        "classes": [c.name for c in config.classes] if config else None,
        "licence": config.licence if config else None,
        "citation": config.citation if config else None,
        "size": model.size,
        "expected_seconds": entry.expected_seconds if entry else None,
        "repo": source.repo,
        "revision": source.revision,
        "sha256": source.sha256,
    }


def _lines(model: KnownModel, catalogue: Catalogue) -> list[tuple[str, str]]:
    """Tell what `info` shows, line by line."""
    lines = [("Id", model.id), ("State", _state(model))]
    if model.reason:
        lines.append(("Reason", model.reason))
    if model.state == "not published":
        lines.append(("To get it", f"import a file (rwkv-unet models import FILE --as {model.id}) or set a repository"))
    if model.state == "needs download":
        lines.append(("To get it", f"rwkv-unet models download {model.id}"))
    if model.config:
        config = model.config
        lines += [
            ("Description", config.description),
            ("Network", f"{config.architecture} {config.variant}"),
            ("Input", config.modality),
            ("Licence", config.licence),
            ("Citation", config.citation),
        ]
        lines.append(("Training", "; ".join(f"{name}: {value}" for name, value in config.training.items())))
    if model.size:
        lines.append(("Size", f"{model.size / 1e6:.1f} MB"))
    if model.entry and model.entry.expected_seconds:
        lines.append(("Seconds", f"{model.entry.expected_seconds:g}: {catalogue.expected_seconds_are}"))
    if model.source and model.source.repo:
        lines.append(("Repository", f"{model.source.repo} at {model.source.endpoint}"))
        lines.append(("Revision", model.source.revision or "not set"))
    if model.origin:
        known = [part for part in (model.origin.file, model.origin.repo, model.origin.commit) if part]
        lines.append(("From", " ".join([model.origin.how, *known])))
    if model.bundle:
        lines.append(("Folder", str(model.bundle.folder)))
    return [(name, value) for name, value in lines if value]
