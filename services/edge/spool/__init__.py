"""The spool: the append-only file that makes usage survive the process."""
