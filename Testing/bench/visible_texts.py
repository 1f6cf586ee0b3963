"""Lists every text of the module that people see, once: for whoever reads them all.

python Testing/bench/visible_texts.py [--by-file]
"""

import ast
import sys
from pathlib import Path
from xml.etree import ElementTree

MODULE = Path(__file__).resolve().parents[2] / "RWKVUNetSegment"
FILES = sorted([MODULE / "RWKVUNetSegment.py", *(MODULE / "RWKVUNetSegmentLib").rglob("*.py")])
UI_FILES = sorted((MODULE / "Resources" / "UI").glob("*.ui"))


def texts(path):
    """(line, text) of what is translated in a file."""
    if path.suffix == ".ui":
        strings = ElementTree.parse(path).iter("string")
        return [(0, string.text) for string in strings if string.text and string.get("notr") != "true"]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call)
            and getattr(node.func, "id", "") == "_"
            and isinstance(node.args[0], ast.Constant)
        ):
            found.append((node.lineno, node.args[0].value))
    return found


if __name__ == "__main__":
    seen = set()
    for path in [*UI_FILES, *FILES]:
        new = [text for _line, text in texts(path) if text not in seen]
        if new and "--by-file" in sys.argv:
            print(f"== {path.relative_to(MODULE)}")
        seen.update(new)
        print("\n".join(dict.fromkeys(new))) if new else None
