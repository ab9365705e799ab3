"""What a request costs, in integers only. Pure: no I/O, no clock, no float, no import of anything of ours."""
