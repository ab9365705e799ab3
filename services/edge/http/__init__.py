"""Bytes and headers: what a connection may do, how bodies are answered, and how much memory both may take."""
