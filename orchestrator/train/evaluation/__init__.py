"""How good a model is on a split: its outputs over all ranks, each sample once, and what metrics say of them."""
