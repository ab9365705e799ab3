"""Drawbridge: OpenAI's own words, and a list of models with what OpenAI's clients need and no more."""

from services.edge.dialects import openai
from services.edge.dialects.dialect import Dialect

DIALECT = Dialect(
    name="drawbridge",
    statuses=openai.STATUSES,
    types=openai.TYPES,
    codes=openai.CODES,
    error_body=openai.error_body,
)
