"""The commands: what each is called, what it takes, and whom it asks to do the work."""
