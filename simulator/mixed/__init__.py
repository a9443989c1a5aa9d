"""Three sites with routers, servers and devices, for `make demo-mixed`: real agents, emulated routers behind real SSH."""
