"""Makes plain tar shards of compressed archives, jsonl, parquet and folders of images. Before the data corridor."""
