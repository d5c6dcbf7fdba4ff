"""What `longhaul doctor` looks at, one kind of check a file. Looking and judging are apart: a `check_` function judges
values that it is handed, so that every verdict can be tested on any machine."""
