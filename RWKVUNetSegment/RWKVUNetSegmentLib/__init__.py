"""The module's logic and panels, one file per subject. Imports neither torch nor pydantic: those live in the worker."""

from RWKVUNetSegmentLib.PythonEnvironment import makeCoreImportable

makeCoreImportable()
