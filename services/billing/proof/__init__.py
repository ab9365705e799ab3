"""Proving the ledger: against itself, the streams, providers' exports, and a hash chain that an altered past breaks."""
