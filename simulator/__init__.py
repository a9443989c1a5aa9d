"""The simulator: the real agent core over fake ports, and a laboratory that runs the real system around it.

It may import everything; nothing imports it.
"""
