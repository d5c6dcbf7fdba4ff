"""Training state at rest: fragments of named parameters, written, committed, verified and read for any world."""
