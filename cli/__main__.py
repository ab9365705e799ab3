"""The `tollbridge` command."""


def main() -> None:
    """Runs the command."""
