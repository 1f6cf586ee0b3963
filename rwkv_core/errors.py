"""Errors for people: what was wrong, and what to do about it.

Every error that a user can cause or cure is an `RWKVUNetError`; anything else that escapes is a defect of this library.
"""


class RWKVUNetError(Exception):
    """Base class.

    Attributes:
        kind: one word for programs (the worker protocol and `--json` carry it).
        message: what was wrong, with the file, setting or value that caused it.
        hint: what to do; may be empty.
    """

    kind = "error"

    def __init__(self, message: str, hint: str = ""):
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.message, self.hint)  # errors cross process borders


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


class MissingPackageError(RWKVUNetError):
    """Something optional, such as training, needs a Python package that is not installed."""

    kind = "setup"


class CancelledError(RWKVUNetError):
    """The user cancelled; nothing was left behind."""

    kind = "cancelled"

    def __init__(self, message: str = "Cancelled.", hint: str = ""):
        super().__init__(message, hint)
