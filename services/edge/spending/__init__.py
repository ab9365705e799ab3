"""Credit at the spender: leases and what is drawn from them, and the records that carry each charge to billing."""
