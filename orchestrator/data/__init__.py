"""What happens to a sample. Rooms in its order: shards, ordering and decoding, feeding, proof."""
