"""The planner: pure. No I/O, no clock, no randomness; `footprint` says what to load, `step` decides."""
