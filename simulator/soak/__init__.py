"""The soak: a real server, a real broker and simulated devices under campaigns without end and faults without pause, watched."""
