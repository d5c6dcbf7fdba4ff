"""A cluster behind its Ray dashboard: what is sent there, and how its runs are looked at from outside."""
