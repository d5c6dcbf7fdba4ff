"""Longhaul's engine: what happens to a sample and what happens to a job. See docs/architecture.md."""
