"""Dialects by name. Adding one is a file here, a line here and a contract test."""

from services.edge.dialects.dialect import Dialect, ErrorView, RenderedError
from services.edge.dialects.openai import DIALECT as OPENAI

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (OPENAI,)}

__all__ = ["DIALECTS", "Dialect", "ErrorView", "RenderedError"]
