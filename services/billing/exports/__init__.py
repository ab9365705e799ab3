"""Usage exports of providers, read into one shape: what `tollbridge ledger reconcile` compares the ledger with."""
