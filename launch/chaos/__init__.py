"""`longhaul chaos`: a run is broken on purpose, and compared with two that are not.

faults.py and draw.py say what is struck, possible.py whether it can be, machine.py and hosts.py where, watch.py and
strike.py when and how; recoveries.py, compare.py and judge.py say what came of it."""
