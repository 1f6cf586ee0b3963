"""Where bundles live on this machine."""

from pathlib import Path

SHIPPED = Path(__file__).parent / "bundles"
