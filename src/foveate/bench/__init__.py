"""Measured claims: every results file names its command, commit, machine and seed, and the goals it is held to."""
