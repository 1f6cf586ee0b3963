"""Errors for people: what was wrong, and what to do about it.

Every error that a user can cause or cure is an `RWKVUNetError`; anything else that escapes is a defect of this library.
Its hint holds whoever reads it: it names no flag, no command and no button. Where a front door has one, the error's
remedy tells which, and the front door words it (`rwkv_core.cli.remedies`).
"""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

RemedyCode = Literal[
    "allow any modality",
    "check data set",
    "choose batch",
    "choose catalogue",
    "choose channel",
    "choose name",
    "choose output",
    "choose preset",
    "choose series",
    "choose split",
    "choose variant",
    "describe checkpoint",
    "download from repository",
    "download model",
    "import model",
    "list models",
    "lower learning rate",
    "name repository",
    "name revision",
    "overwrite model",
    "resume run",
    "start run",
    "train alone",
    "use prompter",
]


@dataclass(frozen=True)
class Remedy:
    """What cures an error, for a front door that words it with its own flags and buttons.

    Attributes:
        code: which cure.
        subject: what it is about, such as the id of a model; may be empty.
    """

    code: RemedyCode
    subject: str = ""


class RWKVUNetError(Exception):
    """Base class.

    Attributes:
        kind: one word for programs (the worker protocol and `--json` carry it).
        message: what was wrong, with the file, setting or value that caused it.
        hint: what to do, in words that hold in a terminal, in Slicer and in Python; may be empty.
        remedy: the same for front doors; None where no flag or button is concerned.
    """

    kind = "error"

    def __init__(self, message: str, hint: str = "", remedy: Remedy | None = None):
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint
        self.remedy = remedy

    def __reduce__(self) -> tuple[type, tuple[str, str, Remedy | None]]:
        return type(self), (self.message, self.hint, self.remedy)  # errors cross process borders


@dataclass(frozen=True, kw_only=True)
class ErrorReport:
    """An error where it crosses from one process to another; the attributes are those of `RWKVUNetError`."""

    kind: str
    message: str
    hint: str = ""
    remedy: Remedy | None = None

    @classmethod
    def of(cls, error: RWKVUNetError) -> "ErrorReport":
        return cls(kind=error.kind, message=error.message, hint=error.hint, remedy=error.remedy)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


def read_report(text: str) -> ErrorReport | None:
    """Find the error that a command with `--json-errors` told last; None where it told none."""
    for line in reversed(text.splitlines()):
        with suppress(ValueError, TypeError, KeyError):
            content = json.loads(line)
            remedy = content.pop("remedy")
            return ErrorReport(**content, remedy=Remedy(**remedy) if remedy else None)
    return None


class InputError(RWKVUNetError):
    """The volume, region or argument cannot be segmented as it is."""

    kind = "input"


class FieldError(InputError, ValueError):
    """A field is out of its range; libraries that validate fields, such as pydantic, take it for a ValueError."""


class BundleError(RWKVUNetError):
    """A bundle is unknown, incomplete, or its config.json is not valid."""

    kind = "bundle"


class CheckpointError(RWKVUNetError):
    """A weights file does not fit the network."""

    kind = "checkpoint"


class DownloadError(RWKVUNetError):
    """A bundle could not be fetched or published."""

    kind = "download"


class StorageError(RWKVUNetError):
    """A file or folder cannot be written: no space, no permission."""

    kind = "storage"


class DeviceError(RWKVUNetError):
    """The device is missing, unsupported or out of memory."""

    kind = "device"


class TrainingError(RWKVUNetError):
    """A training run cannot go on: its loss is no number, a slice does not fit the memory, its data went away."""

    kind = "training"


class MissingPackageError(RWKVUNetError):
    """Something optional, such as training, needs a Python package that is not installed."""

    kind = "setup"


class CancelledError(RWKVUNetError):
    """The user cancelled; nothing was left behind."""

    kind = "cancelled"

    def __init__(self, message: str = "Cancelled.", hint: str = "", remedy: Remedy | None = None):
        super().__init__(message, hint, remedy)


Cancel = Callable[[], bool] | threading.Event
"""Asked now and then, or an event that may be set."""


def as_question(cancel: Cancel | None) -> Callable[[], bool]:
    """Make a function that says whether to stop; without `cancel`, never."""
    if isinstance(cancel, threading.Event):
        return cancel.is_set
    return cancel or (lambda: False)
