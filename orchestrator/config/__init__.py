"""One frozen model per config section; load, overlay, override, check, resolve. Reads no data and starts nothing."""
