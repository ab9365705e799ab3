"""Money set aside: holds, the leases that spenders draw from, and the caps that bind both."""
