"""Small processes beside the ranks, and how ranks talk to them: the standard library only.

links.py    sockets that carry JSON, and open files inside a node
start.py    starts a process that outlives who started it
keeper.py   holds memory of ranks that are gone, for the job that comes after them

The watcher (comm/flight) is the other such process.
"""
