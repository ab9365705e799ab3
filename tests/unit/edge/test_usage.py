"""`GET /usage` as text: what a spreadsheet may read, and which times are meant."""

import csv
import io

import pytest

from services.edge.routes.usage import csv_text, row
from tollbridge.billing.v1 import statements_pb2 as pb


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", '=HYPERLINK("http://x")'])
def test_no_cell_is_a_formula(text: str):
    """A model's name comes from others; a spreadsheet must not run it."""
    rows = [row(pb.UsageSum(group=text, requests=1), "model")]
    read = list(csv.DictReader(io.StringIO(csv_text(rows, "model"), newline="")))
    assert read[0]["model"] == f"'{text}"


def test_a_csv_file_has_the_columns_of_the_json():
    """Commas and quotes in names stay in their cell."""
    found = pb.UsageSum(group='a,"b', requests=2, prompt_tokens=3, completion_tokens=4, charge_nano_usd=1_500_000_000)
    heading, line = "model,requests,prompt_tokens,completion_tokens,charge", '"a,""b",2,3,4,1.500000000'
    assert csv_text([row(found, "model")], "model") == f"{heading}\r\n{line}\r\n"
