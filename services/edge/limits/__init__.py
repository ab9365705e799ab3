"""Limits: leases of what a plan allows, drawn from in memory."""
