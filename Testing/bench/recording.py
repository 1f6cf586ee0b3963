"""What went wrong quietly: Slicer prints it in its Python console and goes on; tests assert there were none."""

import contextlib
import dataclasses
import logging
import sys
import traceback


@dataclasses.dataclass
class Records:
    """Everything a test asserts empty, and what the module asked of the desktop."""

    slotErrors: list = dataclasses.field(default_factory=list)
    """Tracebacks of exceptions raised in slots, timers and VTK observers."""
    failedConnects: list = dataclasses.field(default_factory=list)
    """Connections to signals that do not exist (PythonQt only warns and returns False)."""
    unknownWidgets: list = dataclasses.field(default_factory=list)
    """Widget classes in .ui files that the bench does not offer."""
    unknownAttributes: list = dataclasses.field(default_factory=list)
    """Attributes set on Qt objects that have no such property, and unknown or ill-typed properties in .ui files."""
    unexpectedDialogs: list = dataclasses.field(default_factory=list)
    """Dialogs that asked a question for which the test had prepared no answer."""
    openedUrls: list = dataclasses.field(default_factory=list)
    """What went to qt.QDesktopServices.openUrl: no error, for tests to look at."""

    errorKinds = ("slotErrors", "failedConnects", "unknownWidgets", "unknownAttributes", "unexpectedDialogs")

    def errors(self):
        """All that must be empty, as one list of readable lines."""
        return [f"{kind}: {entry}" for kind in self.errorKinds for entry in getattr(self, kind)]

    def clear(self):
        for field in dataclasses.fields(self):
            getattr(self, field.name).clear()

    @contextlib.contextmanager
    def expected(self, kind):
        """Hands out the list of the entries of one kind that the block adds, and takes them off the record."""
        entries = getattr(self, kind)
        before, added = len(entries), []
        try:
            yield added
        finally:
            added += entries[before:]
            del entries[before:]


records = Records()


def recordUncaught(kind, error, trace):
    """For sys.excepthook: PySide6 and VTK hand the exceptions of slots and observers to it."""
    text = "".join(traceback.format_exception(kind, error, trace))
    records.slotErrors.append(text)
    logging.getLogger("bench").error("exception in a slot or observer\n%s", text)


def recordSlotErrors():
    sys.excepthook = recordUncaught
