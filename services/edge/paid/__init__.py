"""A request that costs money, from its key to its one end: who, at what price, which attempts, which bytes."""
