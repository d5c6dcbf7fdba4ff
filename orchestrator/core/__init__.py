"""The words everybody uses: identities, worlds, states, errors, the clock and keyed randomness. Imports nothing of ours."""
