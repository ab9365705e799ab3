"""What a gate leaves beside a config file that it has let pass, for the services that read it.

Each service knows its own sections only, so none of them can tell whether the others take a changed file. Whoever
starts them all can: `tollbridge up` checks the operator's file for all five and replaces the file that they watch only
by one that all of them take (`cli.up.config_gate`). The note says where the operator's file is, which
references and messages are about, and what is wrong with it as it is now. Without a note a service watches the
operator's file itself.
"""

from pathlib import Path

import msgspec

MAX_NOTE_BYTES = 1 << 16


class GateNote(msgspec.Struct, frozen=True, kw_only=True):
    """`source` is the operator's file; `refused` why that is not what runs, empty when it is."""

    source: str
    refused: str = ""


def note_path(path: Path) -> Path:
    """Where the note about this file is, if there is one."""
    return path.with_name(f"{path.name}.gate")


def read_note(path: Path) -> GateNote | None:
    """The note about this file. None when there is none; an unreadable one is none: the file itself is whole."""
    try:
        with note_path(path).open("rb") as file:
            return msgspec.json.decode(file.read(MAX_NOTE_BYTES), type=GateNote)
    except (OSError, msgspec.DecodeError):
        return None
