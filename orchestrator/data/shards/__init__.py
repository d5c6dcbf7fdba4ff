"""What lies in tar files: sources, their shards, the index of each, the chain of segments, the manifest of a run."""
