"""`tollbridge up`: one machine runs everything. Embedded servers, the five services, and their supervisor."""
