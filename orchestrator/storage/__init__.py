"""Bytes at rest: listing, ranged reads, atomic publishing, append-only line files."""
