"""A run of thousands of nodes on paper, with the real policy in charge: for scale.py."""
