"""Near duplicates: text -> shingles -> signatures -> bands -> candidates -> exact similarity -> verdicts.

Plain functions over arrays; the jobs of prepare/ bring the documents. Nothing here is random or depends on how the work
was cut."""
