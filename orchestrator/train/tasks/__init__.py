"""What is learned: from a batch's arrays to a model's inputs, and from its outputs to sums of losses."""
