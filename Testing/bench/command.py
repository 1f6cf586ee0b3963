"""The command `python Testing/bench`: opens the window for people, or writes pictures and ends."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import bench


def _arguments(given):
    parser = argparse.ArgumentParser(
        prog="python Testing/bench", description="Opens the module's panel beside live views, without Slicer."
    )
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("--volume", type=Path, help="CT or MR volume to load (.nrrd, .nii.gz, ...)")
    volume.add_argument("--sample", action="store_true", help="load the head scan that the project brings")
    volume.add_argument(
        "--pictures",
        type=Path,
        metavar="FOLDER",
        help="draw the pictures of the documentation into this folder, and end; segments the sample: a minute or two",
    )
    volume.add_argument(
        "--states", type=Path, metavar="FOLDER", help="draw the panel in all its states: light, dark, 100 %%, 200 %%"
    )
    parser.add_argument("--look", help=argparse.SUPPRESS)  # one of the looks, in a process of its own
    parser.add_argument("--screenshot", type=Path, metavar="PNG", help="write a picture of the window, and end")
    parser.add_argument("--size", type=int, nargs=2, default=(1400, 900), metavar=("WIDTH", "HEIGHT"))
    arguments = parser.parse_args(given)
    if arguments.volume is not None and not arguments.volume.is_file():
        parser.error(f"no such file: {arguments.volume}")
    arguments.interactive = arguments.screenshot is None and arguments.pictures is None and arguments.states is None
    if arguments.interactive and os.environ["QT_QPA_PLATFORM"] == "offscreen":
        parser.error("there is no display to open a window on; --screenshot, --pictures and --states need none")
    return arguments


def main(given=None):
    """Runs the command; the exit code is 1 where an exception, a failed connection or the like was recorded."""
    arguments = _arguments(given)
    app = bench.start()
    from bench import pictures, states

    bench.dialogs.interactive = arguments.interactive
    if arguments.states is not None and arguments.look is None:
        return states.drawAll(arguments.states)
    if arguments.states is not None:
        states.draw(arguments.states, arguments.look)
    elif arguments.pictures is not None:
        with tempfile.TemporaryDirectory(prefix="rwkv-unet-") as home:  # the user's own models are not shown
            os.environ["RWKV_UNET_HOME"] = home
            pictures.draw(arguments.pictures)
    else:
        _open(app, arguments)
    bench.process_events()
    for error in bench.records.errors():
        print(error, file=sys.stderr)
    return 1 if bench.records.errors() else 0


def _open(app, arguments):
    import slicer

    from bench import pictures, views, window

    opened = bench.open_module(pictures.MODULE)
    shown = window.show(opened, arguments.size)
    volume = pictures.SAMPLE if arguments.sample else arguments.volume
    if volume is not None:
        slicer.util.setSliceViewerLayers(background=slicer.util.loadVolume(str(volume)), fit=True)
        app.layoutManager().resetThreeDViews()
    if arguments.interactive:
        app.exec()
    else:
        views.save(bench.settle(shown, quiet=1.0, timeout=60.0), arguments.screenshot)
    opened.close()
