"""What is trained: from the config's model section to modules, their description, and the values they begin with."""
