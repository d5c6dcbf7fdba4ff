"""The ledger recomputed without training, and the first difference named."""
