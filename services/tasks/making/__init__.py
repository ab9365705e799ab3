"""What can be made, and how: kinds of jobs, what their orders say, and who makes them over which protocol."""
