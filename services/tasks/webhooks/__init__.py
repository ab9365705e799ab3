"""Telling customers of the end of a job by signed webhooks."""
