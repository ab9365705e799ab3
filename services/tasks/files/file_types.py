"""What a file is, by its first bytes; a provider's word for it is not needed.

The list is closed: what is none of these is handed out as bytes, so that no file of a provider's is ever a page or a
script in somebody's browser.
"""

UNKNOWN = "application/octet-stream"
_MAGIC = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"\x1aE\xdf\xa3", "video/webm"),
)
_BRANDS = {b"avif": "image/avif", b"avis": "image/avif", b"qt  ": "video/quicktime", b"M4A ": "audio/mp4"}


def content_type(data: bytes) -> str:
    """Its type."""
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "video/mp4")
    return UNKNOWN
