"""A provider of our own: speaks two protocols, plays a script per request, and keeps its own synced log."""
