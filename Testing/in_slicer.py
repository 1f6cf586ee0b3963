"""Run the module's tests and a new user's first run in a real 3D Slicer, and write one report to send.

    python Testing/in_slicer.py /opt/Slicer-5.12/Slicer
    python Testing/in_slicer.py Slicer.exe --install                  # also presses Install under Setup
    python Testing/in_slicer.py Slicer --extension-build build        # the built extension in place of the source tree

Slicer starts with settings of its own, which are thrown away. Nothing is installed into it without --install. The
report is a .zip with what was done, what it said, pictures, and Slicer's log; it names folders of this computer, and
nothing of its scans.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SESSION = Path(__file__).with_name("slicer_session.py")
RESULT = "session.json"
"""What the session in Slicer writes, after every step."""


def module_folders(build: Path | None) -> list[Path]:
    """The folders that Slicer is to look for modules in.

    Raises:
        FileNotFoundError: when an extension's build has none.
    """
    if build is None:
        return [ROOT / "RWKVUNetSegment"]
    found = sorted(path.parent for path in build.rglob("RWKVUNetSegment.py") if "qt-scripted-modules" in path.parts)
    if not found:
        raise FileNotFoundError(f"{build} holds no built module (…/qt-scripted-modules/RWKVUNetSegment.py).")
    return found[:1]


def command(slicer: Path, folders: Sequence[Path]) -> list[str]:
    """Slicer's command line."""
    return [
        *([sys.executable] if slicer.suffix == ".py" else []),
        str(slicer),
        "--no-splash",
        "--ignore-slicerrc",
        "--disable-settings",
        "--additional-module-paths",
        *map(str, folders),
        "--python-script",
        str(SESSION),
    ]


def run(slicer: Path, folders: Sequence[Path], output: Path, install: bool, timeout: float) -> dict[str, object]:
    """Run the session; gives the report."""
    environment = os.environ | {
        "RWKV_SESSION_OUTPUT": str(output),
        "RWKV_SESSION_ROOT": str(ROOT),
        "RWKV_SESSION_INSTALL": "1" if install else "",
    }
    began = time.perf_counter()
    ended = ""
    with (output / "slicer.log").open("wb") as log:
        try:
            code: int | None = subprocess.run(
                command(slicer, folders),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                timeout=timeout,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code, ended = None, f"Slicer did not end within {timeout:g} seconds and was killed."
        except OSError as error:
            code, ended = None, f"{slicer} cannot be started: {error.strerror}."
    try:
        session = json.loads((output / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        session = {"steps": []}
        ended = ended or f"Slicer ended with exit code {code} before the module's session began; see slicer.log."
    steps = session["steps"]
    if not session.get("complete") and not ended:
        ended = f"Slicer ended with exit code {code} in the middle of the session; see slicer.log."
    return {
        "system": platform.platform(),
        "modules": [str(folder) for folder in folders],
        "exit code": code,
        "seconds": round(time.perf_counter() - began, 1),
        "ended": ended,
        "passed": bool(steps) and not ended and all(step["state"] != "failed" for step in steps),
        **session,
    }


def in_words(report: dict[str, object]) -> str:
    """The report as text."""
    lines = [f"{report.get('slicer', 'Slicer')} on {report['system']}, {report['seconds']} s"]
    for step in report["steps"]:  # type: ignore[attr-defined]
        said = f": {step['said'].strip().splitlines()[-1]}" if step["said"].strip() else ""
        lines.append(f"{step['state']:8} {step['name']} ({step['seconds']:.1f} s){said}")
    if report["ended"]:
        lines.append(str(report["ended"]))
    lines.append("Everything passed." if report["passed"] else "Something failed: please send the report.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it.

    Returns:
        0 when everything passed, 1 when something did not, 2 for arguments that cannot be used.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slicer", type=Path, help="Slicer's executable")
    parser.add_argument("--extension-build", type=Path, help="folder in which the extension was built")
    parser.add_argument("--install", action="store_true", help="install what is missing into this Slicer's Python")
    parser.add_argument("--report", type=Path, default=Path("slicer-report.zip"), help="where the report goes")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds until Slicer is killed")
    options = parser.parse_args(arguments)
    if not options.slicer.is_file():
        print(f"There is no file {options.slicer}: give the path of Slicer's executable.", file=sys.stderr)
        return 2
    try:
        folders = module_folders(options.extension_build)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    output = options.report.with_suffix("").absolute()
    output.mkdir(parents=True, exist_ok=True)
    for old in output.iterdir():
        old.unlink()
    report = run(options.slicer.absolute(), folders, output, options.install, options.timeout)
    text = in_words(report)
    (output / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (output / "report.txt").write_text(text + "\n", encoding="utf-8")
    (output / RESULT).unlink(missing_ok=True)
    new = options.report.with_name(f".{options.report.name}.new")
    with zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(output.iterdir()):
            archive.write(path, path.name)
    new.replace(options.report)
    print(f"{text}\nReport: {options.report.absolute()}")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
