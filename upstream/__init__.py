"""How to call a provider: the connection, one file per wire, attempts. Knows no customer and no public surface."""
