"""Telling customers that their balance is low: what they asked for, what happened, and the webhooks that say so."""
