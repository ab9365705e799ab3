"""Forms with files: read as any client writes them, within bounds, and written as any provider reads them."""

import httpx
import pytest

from upstream.form import MAX_PARTS, FormFile, FormProblem, read_form, write_form


def test_a_form_of_another_client_is_read():
    """Fields in their order, repeated ones too, and the file's bytes whatever they are."""
    data = b"\r\n--boundary\x00\xff" * 100
    made = httpx.Request(
        "POST",
        "http://form",
        data={"model": "whisper-1", "include[]": ["a", "b"], "prompt": 'Zoë "quoted"\r\nnext'},
        files={"file": ("Zoë.mp3", data, "audio/mpeg")},
    )
    form = read_form(made.read(), made.headers["content-type"])
    assert form.fields == (
        ("model", "whisper-1"),
        ("include[]", "a"),
        ("include[]", "b"),
        ("prompt", 'Zoë "quoted"\r\nnext'),
    )
    assert [(each.field, each.name, each.content_type) for each in form.files] == [("file", "Zoë.mp3", "audio/mpeg")]
    assert form.files[0].data == data


def test_what_is_written_can_be_read_and_not_broken_out_of():
    """A name with quotes and line ends stays a name."""
    evil = 'a"\r\nx-injected: 1\r\n\r\n'
    file = FormFile(field="file", name=evil, content_type="audio/wav\r\nx-injected: 1", data=b"sound")
    form = read_form(*write_form([(evil, evil)], [file]))
    assert len(form.fields) == len(form.files) == 1
    assert form.fields[0][1] == evil
    assert "\n" not in form.fields[0][0] + form.files[0].name + form.files[0].content_type
    assert form.files[0].data == b"sound"


@pytest.mark.parametrize("cut", [3, 10, 60])
def test_a_form_that_ends_early_is_refused(cut: int):
    """Half a sound must not be heard, and paid for, as a whole."""
    body, content_type = write_form([], [FormFile(field="file", name="a", content_type="a/b", data=bytes(100))])
    with pytest.raises(FormProblem):
        read_form(body[:-cut], content_type)


def test_parts_are_bounded():
    """In number; their size is bounded by the body's, and fields have a bound of their own."""
    with pytest.raises(FormProblem, match="64 parts"):
        read_form(*write_form([("a", "b")] * (MAX_PARTS + 1), []))
    with pytest.raises(FormProblem, match="larger than"):
        read_form(*write_form([("prompt", "x" * (3 << 20))], []))
