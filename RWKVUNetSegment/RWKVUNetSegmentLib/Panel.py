"""What the sections of the module's panel have in common."""

from typing import Any


class Panel:
    """One section: connects its controls once, and shows the state of the logics and of the parameter node.

    Args:
        ui: the controls by name, from the .ui file.
        logic: `RWKVUNetSegmentLogic`.

    Attributes:
        parameterNode: set by the widget; None while there is no scene to work on.
    """

    def __init__(self, ui: Any, logic: Any):
        self.ui = ui
        self.logic = logic
        self.parameterNode: Any = None
        self._hints: dict[str, str] = {}
        self.setup()

    def setup(self) -> None:
        """Connect the controls."""
        raise NotImplementedError

    def updateFromState(self) -> None:
        """Show what is. Called after every change, so it must be quick and must change nothing but controls."""
        raise NotImplementedError

    def cleanup(self) -> None:
        """Let go of the logics."""

    def allow(self, button: Any, possible: bool, reason: str = "") -> None:
        """Enable a control, or disable it and say in its tooltip why."""
        hint = self._hints.setdefault(button.name, button.toolTip)
        button.enabled = possible
        button.toolTip = hint if possible else reason
