"""What happens to a sample: shards, index, manifest, order, read, batch, ledger."""
