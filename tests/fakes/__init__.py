"""Stand-ins for the outside world, each its own process."""
