"""Bytes of members -> values, by tables of our own: decoders, transforms, random draws, arrays."""
