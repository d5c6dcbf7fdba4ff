"""The words everybody uses: identities, worlds, states, errors, clock, keyed randomness. Imports nothing of ours."""
