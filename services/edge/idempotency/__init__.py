"""Requests with an `Idempotency-Key`: run once, charged once, answered with the same bytes ever after."""
