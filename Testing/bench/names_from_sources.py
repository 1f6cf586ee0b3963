"""Makes the list of names that Slicer's Python offers, from the sources: python names_from_sources.py SLICER CTK > LIST

Of the C++ classes with Q_OBJECT, what PythonQt shows of them: Q_PROPERTYs, public slots, Q_INVOKABLEs, decorators,
signals with their arguments, enumerators. Of the Python files, the public functions and classes with their methods.

    class ctkCheckBox QCheckBox            the class and its base
     p indeterminate                       properties
     m setIndeterminate                    methods (slots, invokables, decorators)
     s toggled(bool)                       signals
     e Never                               enumerators
    python slicer.util                     a Python module
     m loadUI                              functions
     c WaitCursor                          classes; their methods as `m WaitCursor.method`
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

CTK_FOLDERS = ("Libs/Core", "Libs/Widgets", "Libs/Visualization/VTK/Widgets")
SLICER_FOLDERS = (
    "Base/QTCore",
    "Base/QTGUI",
    "Base/QTApp",
    "Libs/MRML/Widgets",
    "Modules/Loadable/Segmentations/Widgets",
    "Modules/Loadable/SubjectHierarchy/Widgets",
    "Modules/Loadable/Terminologies/Widgets",
    "Modules/Scripted/DICOMLib/Widgets",
)
PYTHON_FILES = {
    "slicer.util": "Base/Python/slicer/util.py",
    "slicer.packaging": "Base/Python/slicer/packaging.py",
    "slicer.i18n": "Base/Python/slicer/i18n.py",
    "slicer.ScriptedLoadableModule": "Base/Python/slicer/ScriptedLoadableModule.py",
    "SampleData": "Modules/Scripted/SampleData/SampleData.py",
}
NO_API = ("Private", "EventPlayer", "EventTranslator", "Delegate", "Plugin")
WRAPPER = "Base/Python/slicer/parameterNodeWrapper"

CLASS = re.compile(r"\bclass\s+(?:[A-Z_]+_EXPORT\s+)?(\w+)\s*(?:final\s*)?:\s*public\s+([\w:]+)[^{;]*\{")
SECTION = re.compile(r"\b(public|protected|private|signals|Q_SIGNALS)\s*(slots|Q_SLOTS)?\s*:(?!:)")
FUNCTION = re.compile(r"([~\w]+)\s*\(")


def bare(source):
    """The source without comments, preprocessor lines and strings."""
    literals = r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/'  # in one pass: a string may hold "http://"
    source = re.sub(literals, lambda m: '""' if m.group().startswith('"') else "", source, flags=re.S)
    return re.sub(r"^\s*#.*?(?<!\\)$", "", source, flags=re.M)


def body(source, start):
    """The text between the brace before `start` and the one that closes it."""
    depth = 1
    for at in range(start, len(source)):
        depth += {"{": 1, "}": -1}.get(source[at], 0)
        if depth == 0:
            return source[start:at]
    return source[start:]


def statements(text):
    """Declarations one by one, function bodies cut out."""
    flat, depth = [], 0
    for character in text:
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                flat.append(";")
        elif depth == 0:
            flat.append(character)
    return [" ".join(s.split()) for s in "".join(flat).split(";") if s.strip()]


def arguments(text):
    """Normalised argument types of 'name(const QString& a, int b = 0)', as moc writes them."""
    inner = text[text.index("(") + 1 : text.rindex(")")]
    types = []
    for argument in filter(None, (a.strip() for a in re.split(r",(?![^<]*>)", inner))):
        argument = re.sub(r"=.*", "", argument).strip()
        argument = re.sub(r"^const\s+(.*?)\s*&", r"\1", argument)
        kind = re.match(r"((?:unsigned |const )?[\w:]+(?:<.*>)?\s*[*&]*)", argument).group(1)
        types.append(kind.replace(" *", "*").strip())
    return ",".join(types)


def members(text):
    """Properties, methods, signals and enumerators of one class body."""
    found = {"p": set(), "m": set(), "s": set(), "e": set()}
    found["p"] |= set(re.findall(r"Q_PROPERTY\s*\(\s*[\w:<>]+(?:\s*\*)?\s+(\w+)", text))
    if re.search(r"Q_(ENUMS?|FLAGS?)\s*\(", text):
        for inner in re.findall(r"\benum\s+(?:class\s+)?\w*\s*(?::\s*\w+\s*)?\{(.*?)\}", text, flags=re.S):
            found["e"] |= {e.split("=")[0].strip() for e in re.split(r",(?![^(]*\))", inner) if e.strip()}
    text = re.sub(r"\bQ_[A-Z_]+\s*\((?:[^()]|\([^()]*\))*\)\s*;?", "", text)
    text = re.sub(r"\b(Q_OBJECT|QVTK_OBJECT|Q_GADGET)\b", "", text)
    section, parts = ("private", None), SECTION.split(text)
    for index in range(1, len(parts), 3):
        section = (parts[index], parts[index + 1])
        for statement in statements(parts[index + 2]):
            name = FUNCTION.search(statement)
            if name is None or name.group(1).startswith("~") or statement.startswith(("friend", "typedef", "using")):
                continue
            if section[0] in ("signals", "Q_SIGNALS"):
                found["s"].add(f"{name.group(1)}({arguments(statement)})")
            elif (section[0] == "public" and section[1]) or "Q_INVOKABLE" in statement:
                found["m"].add(name.group(1))
    return found


def decorated(source):
    """(class, method) of a decorator file: functions whose first argument, or whose name, says the class."""
    pairs = set()
    for match in re.finditer(r"(\w+)\s*\(\s*([\w:]+)\s*\*\s*\w+[,)]", source):
        pairs.add((match.group(2), match.group(1)))
    for match in re.finditer(r"\bstatic_(\w+?)_(\w+)\s*\(", source):
        pairs.add((match.group(1), match.group(2)))
    return pairs


def qtClasses(root, folders):
    classes, decorations = {}, set()
    for folder in folders:
        for path in sorted((Path(root) / folder).glob("*.h")):
            source = bare(path.read_text(encoding="utf-8", errors="replace"))
            if path.stem.endswith("PythonQtDecorators"):
                decorations |= decorated(source)
            for match in CLASS.finditer(source):
                inside = body(source, match.end())
                name = match.group(1)
                if re.search(r"\bQ_OBJECT\b", inside) and not name.endswith((*NO_API, "Decorators")):
                    classes[name] = (match.group(2), members(inside))
    for name, method in decorations:
        if name in classes:
            classes[name][1]["m"].add(method)
    return classes


def pythonNames(path):
    found = {"m": set(), "c": set()}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        public = not getattr(node, "name", "_").startswith("_")
        if isinstance(node, ast.FunctionDef) and public:
            found["m"].add(node.name)
        elif isinstance(node, ast.ClassDef) and public:
            found["c"].add(node.name)
            methods = [m.name for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]
            found["m"] |= {f"{node.name}.{method}" for method in methods}
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
            found["m"].add(node.targets[0].id)
    return found


def wrapperNames(folder):
    """What parameterNodeWrapper exports: the __all__ of its files."""
    names = set()
    for path in folder.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                names |= set(ast.literal_eval(node.value))
    return {"m": names}


def commit(root):
    """Hash and day of a checkout's commit."""
    command = ["git", "-C", str(root), "log", "-1", "--format=%h of %cs"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def lines(slicer, ctk):
    """The list, line by line."""
    yield f"# Made by Testing/bench/names_from_sources.py from Slicer {commit(slicer)} and CTK {commit(ctk)}"
    classes = {**qtClasses(ctk, CTK_FOLDERS), **qtClasses(slicer, SLICER_FOLDERS)}
    for name, (base, found) in sorted(classes.items()):
        yield f"class {name} {base}"
        yield from (f" {kind} {' '.join(sorted(names))}" for kind, names in found.items() if names)
    python = {name: pythonNames(Path(slicer) / path) for name, path in PYTHON_FILES.items()}
    python["slicer.parameterNodeWrapper"] = wrapperNames(Path(slicer) / WRAPPER)
    for name, found in python.items():
        yield f"python {name}"
        yield from (f" {kind} {' '.join(sorted(names))}" for kind, names in found.items() if names)


if __name__ == "__main__":
    print(*lines(*sys.argv[1:3]), sep="\n")
