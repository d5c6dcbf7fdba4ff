"""From raw shards to verdicts and tokens: pure functions over one shard or one segment. control/fleet.py runs them on Ray."""
