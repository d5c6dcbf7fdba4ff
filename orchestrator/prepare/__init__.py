"""From raw shards to verdicts and tokens: pure functions over one shard or one segment. Run on Ray by control/."""
