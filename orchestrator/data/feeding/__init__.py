"""From positions to batches: read, check, pack or decode, and make them ahead of time."""
