"""Virtual time: the server's own planner over rows in memory, and a fleet of devices that answer from chances.

Nothing here decides what a campaign does; that is `server.planner`, whose decisions are carried out as `server.campaigns.turn`
does. What is modelled are the devices, their links and the clock. The same world and seed give the same run, bit for bit.
"""
