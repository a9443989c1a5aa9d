"""The agent's decisions: `step(standing, event, now, trusted_time)` returns the next standing and commands.

Pure: no clock, no randomness, no I/O. Monotonic seconds, trusted time, nonces and jitter arrive as data.
"""
