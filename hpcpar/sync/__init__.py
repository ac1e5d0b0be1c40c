"""When workers learn of each other's updates: synchronous, bounded staleness, as it comes, rarely.

config.py    what can be asked for
roles.py     who serves which keys, and who takes over
keys.py      which elements of a model a key range has, and what a server does with them
shard.py     a key range on one server: which pushes have come, which were applied
server.py    the servers' side of the protocol
worker.py    the workers' side
serving.py   both, over MPI
"""
