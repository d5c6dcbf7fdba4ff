"""The front door: the command line and one short file per way to start."""
