"""Cleaning: a sample -> rules in the order given -> kept, altered, or dropped by one of them with its reason.

Plain functions in a table (rules.py), called by the Cleaner (cleaner.py). A verdict depends on one sample alone, and on
statistics where a rule says so; never on its neighbours or on how the work was cut."""
