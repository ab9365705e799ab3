"""What requests ask for: bodies, read within bounds, checked field by field, understood as far as money needs."""
