"""The front door: the command line, api.py for scripts and notebooks, and one short file per way to start."""
