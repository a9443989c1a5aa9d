"""Simulated devices on the wire: real agents, MQTT over TLS and HTTPS against a real server and broker, thousands in a process.

One thread of a process drives all its devices (`hub`): sockets that never block, timers, and the jobs of their agents.
"""
