"""Simulates schedules with SimGrid, an independent simulator: python3 simgrid_collectives.py FILE

Runs under Debian's Python, which has SimGrid (`apt-get install python3-simgrid`). FILE is a JSON
object that benchmarks/pricer.py writes: `inside` and `between` (latency in seconds, bandwidth in
bytes a second), `nodes` (the node of each rank) and `programs`, a list of instructions for each
rank: [kind, waits, peer, bytes, seconds] with kind 0 send, 1 receive, 2 compute. Printed is a JSON
object with the simulated `seconds` of the collective, and the `wall` time that it took.

An actor stands for a rank, a mailbox for a pair of ranks, a star for a node; the stars are joined
by a star of nodes. The model is CM02, with latencies and bandwidths as given.
"""

import json
import sys
import time

from simgrid import Actor, Engine, LinkInRoute, Mailbox, NetZone, this_actor

SEND, RECEIVE = 0, 1
FINISHED = []


def main() -> int:
    with open(sys.argv[1]) as file:
        case = json.load(file)
    settings = ["network/model:CM02", "network/TCP-gamma:1e15", "network/crosstraffic:0"]
    engine = Engine(["simgrid", "--log=root.thresh:critical"] + [f"--cfg={s}" for s in settings])
    hosts = platform(case["nodes"], case["inside"], case["between"])
    began = time.perf_counter()
    for rank, program in enumerate(case["programs"]):
        Actor.create(f"rank{rank}", hosts[rank], perform, rank, program)
    engine.run()
    print(json.dumps({"seconds": max(FINISHED), "wall": time.perf_counter() - began}))
    return 0


def platform(nodes: list, inside: list, between: list) -> list:
    """The hosts, one for each rank."""
    world = NetZone.create_star_zone("world")
    latency, bandwidth = inside
    # From rank to rank of another node: both ranks' links, and both nodes'.
    far = (between[0] - latency) / 2
    hosts = [None] * len(nodes)
    for node in sorted(set(nodes)):
        zone = NetZone.create_star_zone(f"node{node}")
        zone.set_parent(world)
        gateway = zone.create_router(f"router{node}")
        for rank, home in enumerate(nodes):
            if home == node:
                hosts[rank] = zone.create_host(f"rank{rank}", 1e9)
                link = zone.create_split_duplex_link(f"link{rank}", bandwidth)
                link.set_latency(latency / 2).seal()
                way = LinkInRoute(link, LinkInRoute.Direction.UP)
                zone.add_route(hosts[rank].netpoint, None, None, None, [way], True)
        zone.seal()
        door = world.create_split_duplex_link(f"door{node}", between[1])
        door.set_latency(far).seal()
        way = LinkInRoute(door, LinkInRoute.Direction.UP)
        world.add_route(zone.netpoint, None, gateway, None, [way], True)
    world.seal()
    return hosts


def perform(rank: int, program: list) -> None:
    """What hpcpar's runner does: start transfers, wait for those that a step needs."""
    pending = {}
    received = []  # SimGrid writes what arrives into these: they must live on
    for number, (kind, waits, peer, size, seconds) in enumerate(program):
        for earlier in waits:
            pending.pop(earlier).wait()
        if kind == SEND:
            pending[number] = Mailbox.by_name(f"{rank}>{peer}").put_async(number, size)
        elif kind == RECEIVE:
            pending[number], content = Mailbox.by_name(f"{peer}>{rank}").get_async()
            received.append(content)
        elif seconds:
            this_actor.sleep_for(seconds)
    for comm in pending.values():
        comm.wait()
    FINISHED.append(Engine.clock)


if __name__ == "__main__":
    sys.exit(main())
