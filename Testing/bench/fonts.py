"""A font that can be read: Qt's offscreen platform finds those of the system, or the ones that matplotlib brings."""

from pathlib import Path

from bench.pyside import QtGui

PREFERRED = ("Noto Sans", "DejaVu Sans", "Liberation Sans", "Arial", "Segoe UI")


def useReadableFont(application, size=9):
    """Sets the application's font; raises RuntimeError where there is none."""
    database = QtGui.QFontDatabase
    if not set(PREFERRED) & set(database.families()):
        import matplotlib

        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf"):
            database.addApplicationFont(str(folder / name))
    family = next((name for name in PREFERRED if name in database.families()), None)
    if family is None:
        raise RuntimeError("The bench finds no readable font: install DejaVu Sans, or matplotlib, which brings it.")
    font = QtGui.QFont(family)
    font.setPointSize(size)
    application.setFont(font)
    return family
