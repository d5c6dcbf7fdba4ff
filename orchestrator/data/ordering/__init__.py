"""Who is fed when, as arithmetic: steps, positions, units, rows; and how it is written down: ledger and skips."""
