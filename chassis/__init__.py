"""How a Tollbridge service runs: settings, logs, traces, RPC, bus, database, spool. No business word lives here."""
