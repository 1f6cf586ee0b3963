"""The command line, `rwkv-unet`. One file per command; this one finds it, and turns errors into sentences."""

import json
import logging
import os
import re
import sys
from contextlib import nullcontext
from dataclasses import asdict
from importlib import import_module
from typing import NoReturn

from rwkv_core import __version__
from rwkv_core.cli.terminal import (
    PIPE_CLOSED,
    Console,
    LogFormatter,
    Parser,
    PipeClosedError,
    closing_pipes,
    without_native_messages,
)
from rwkv_core.errors import CancelledError, ErrorReport, RWKVUNetError
from rwkv_core.packages import missing

OK, FAILED, CANCELLED = 0, 1, 130
"""Exit codes: all done; something failed; stopped by Ctrl-C. Where the arguments make no sense, argparse's 2."""

COMMANDS = ("segment", "spread", "prompt", "demo", "models", "train", "evaluate", "dataset", "doctor")
"""Each is the name of a module beside this one."""


def run_process() -> NoReturn:
    """Run the command of this process and end it; all that it wrote is on disk by then.

    But for training, whose helper processes it waits for, Python is not taken apart first (as mypy's `hard_exit`):
    after OpenVINO, that takes a quarter of a second.
    """
    code = main()
    if "train" in sys.argv:
        sys.exit(code)
    os._exit(code)


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; None takes them from the process.

    Returns:
        The exit code: 0 all done, 1 something failed, 2 wrong usage, 130 stopped by the user, 141 its reader has gone.
    """
    for stream in (sys.stdout, sys.stderr):  # a Windows console may not hold every letter of a path
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    given = sys.argv[1:] if arguments is None else arguments
    whole = arguments is not None or "train" in given or "--debug" in given  # others may say why
    try:
        with nullcontext() if whole else without_native_messages(), closing_pipes():
            return _run(given)
    except PipeClosedError:
        return PIPE_CLOSED


def _run(given: list[str]) -> int:
    parser = Parser(
        prog="rwkv-unet",
        description="Segments CT and MR volumes with RWKV-UNet. For research, not for diagnosis.",
    )
    parser.add_argument("--version", action="version", version=f"rwkv-unet {__version__}")
    parser.add_argument("--json-errors", action="store_true", help="tell an error as a line of JSON, for programs")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = next((word for word in given if not word.startswith("-")), "")
    for name in (command,) if command in COMMANDS else COMMANDS:  # what is not asked for need not be imported
        import_module(f"rwkv_core.cli.{name}").add_parser(subparsers)
    options = parser.parse_args(_with_negative_numbers(given))
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter("%(message)s"))
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.ERROR, handlers=[handler])
    if not options.debug:
        logging.getLogger("rwkv_core").setLevel(logging.WARNING)
    try:
        return int(options.func(options))
    except (KeyboardInterrupt, CancelledError):
        print("Stopped.", file=sys.stderr)
        return CANCELLED
    except ModuleNotFoundError as error:
        if options.debug or not error.name or error.name.startswith("rwkv_core"):
            raise
        _tell(missing(f"rwkv-unet {options.command}", error.name), options.json_errors)
        return FAILED
    except RWKVUNetError as error:
        if options.debug:
            raise
        _tell(error, options.json_errors)
        return FAILED


def _with_negative_numbers(arguments: list[str]) -> list[str]:
    """`--at -3,4,5` as `--at=-3,4,5`: argparse takes a list of numbers that begins with a minus for an option."""
    joined: list[str] = []
    for argument in arguments:
        if re.match(r"-[\d.]+,", argument) and joined and re.fullmatch(r"--[a-z]+", joined[-1]):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _tell(error: RWKVUNetError, as_json: bool) -> None:
    """Write what was wrong, and what to do, on standard error."""
    if as_json:
        print(json.dumps(asdict(ErrorReport.of(error))), file=sys.stderr)
        return
    from rwkv_core.cli.remedies import advice

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("Error:", style="bold red", end=" ")
    console.print(error.message, markup=False)
    if hint := advice(error.hint, error.remedy):
        console.print(hint, markup=False)
