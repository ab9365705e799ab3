"""The five services, owners first: the order in which they are listed, migrated and started."""

SERVICES = ("auth", "router", "billing", "tasks", "edge")
