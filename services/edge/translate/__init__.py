"""Between the wires: a client's shape over a provider that speaks another. Pure functions and stream readers."""
