"""What a run tells: the run directory, its journal, metric and ledger rows, Weights & Biases."""
