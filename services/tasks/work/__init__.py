"""Jobs as workers have them: claimed in turn, seen to their end, looked after when they were left behind."""
