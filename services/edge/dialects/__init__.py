"""Dialects by name: each module of this package that has a `DIALECT`. Adding one is a file here and a contract test."""

import importlib
import pkgutil

from services.edge.dialects.dialect import Dialect, ErrorView, RenderedError


def _found() -> dict[str, Dialect]:
    modules = (importlib.import_module(f"{__name__}.{each.name}") for each in pkgutil.iter_modules(__path__))
    dialects = (getattr(module, "DIALECT", None) for module in modules)
    return {dialect.name: dialect for dialect in dialects if isinstance(dialect, Dialect)}


DIALECTS = _found()
DEFAULT = DIALECTS["openai"]
"""What a surface speaks that names none, and everything outside the surfaces."""

__all__ = ["DEFAULT", "DIALECTS", "Dialect", "ErrorView", "RenderedError"]
