"""How a run is drawn: bars, tables, words."""
