"""How a model changes in a step: the optimizer, its groups of parameters, and the learning rate over the steps."""
