"""Exact runs: a world in virtual time with nothing in the place of the real thing but time and the network. Real agents, real
signatures and messages, the server's own core on a real database; one process, one thread, no socket, no wall clock."""
