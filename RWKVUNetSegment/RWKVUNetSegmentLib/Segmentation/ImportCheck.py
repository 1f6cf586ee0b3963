"""Whether a child process can import what is installed: metadata tell what is there, not that it works.

Asked once for each set of versions, and remembered in the settings; nothing is imported into Slicer.
"""

from collections.abc import Callable

import qt
from slicer.i18n import tr as _

from RWKVUNetSegmentLib.EventLoop import later
from RWKVUNetSegmentLib.PythonEnvironment import pythonProgram
from RWKVUNetSegmentLib.Worker.ChildProcess import ChildProcess


class ImportCheck:
    """One check, of one piece of Python.

    Args:
        code: what the child process runs; it raises, or exits with a sentence, when something cannot be used.
        setting: key of the settings, under which the versions stand with which it succeeded.
        over: called when a check has ended.

    Attributes:
        failure: why what is installed cannot be used; empty when it can, or is not known yet.
    """

    def __init__(self, code: str, setting: str, over: Callable[[], None]):
        self.failure = ""
        self._code, self._setting, self._over = code, setting, over
        self._failed: str | None = None
        self._process: ChildProcess | None = None
        self._asked: object = None

    def passed(self, versions: str) -> bool | None:
        """Tell whether these versions can be used; None while a child process is finding out.

        Args:
            versions: all that the answer depends on.
        """
        if str(qt.QSettings().value(self._setting) or "") == versions:
            return True
        if self._process is None and self._failed != versions:
            self._start(versions)
        return False if self._failed == versions else None

    def forget(self) -> None:
        """Check once more what failed: it was installed anew."""
        self._failed, self.failure = None, ""

    @property
    def running(self) -> bool:
        """Whether a child process is at work."""
        return self._process is not None

    def end(self) -> None:
        """End the child process, without an answer."""
        self._asked = None
        process, self._process = self._process, None
        if process is not None:
            process.end()
            process.release()

    def _start(self, versions: str) -> None:
        asked = self._asked = object()

        def ended(problem: str) -> None:
            if self._asked is not asked:  # it was ended: how says nothing
                return
            process, self._process = self._process, None
            if process is not None:
                process.release()
            self._note(versions, problem)
            self._over()

        def finished(code: int) -> None:
            words = self._process.readErrors().decode("utf-8", "replace").strip() if self._process is not None else ""
            last = words.splitlines()[-1] if words else _("exit code {code}.").format(code=code)
            later(lambda: ended("" if code == 0 else last.rstrip(".") + "."))

        try:
            program = [pythonProgram(), "-c", self._code]
        except FileNotFoundError as error:
            self._note(versions, str(error))
            return
        self._process = ChildProcess(program, finished, lambda reason: later(lambda: ended(reason)))

    def _note(self, versions: str, problem: str) -> None:
        if problem:
            self._failed, self.failure = versions, problem
        else:
            qt.QSettings().setValue(self._setting, versions)
