"""Verdicts that depend on other samples: sign by shard, call the roll of a segment, judge it.

Brings documents to near/, which does the arithmetic, and hands it out as jobs."""
