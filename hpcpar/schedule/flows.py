"""Flows that share ports max-min fairly, by progressive filling."""

from collections.abc import Iterable
from typing import Any

__all__ = ["Flow", "Port", "share"]


class Port:
    """One direction of one end of a link."""

    __slots__ = ("bandwidth", "flows")

    def __init__(self, bandwidth: float) -> None:
        self.bandwidth = bandwidth  # bytes a second
        self.flows: dict[Flow, None] = {}  # in the order in which they came


class Flow:
    """Bytes under way through some ports."""

    __slots__ = ("content", "ports", "rate", "remaining", "since", "version")

    def __init__(self, content: Any, size: int, ports: tuple[Port, ...]) -> None:
        self.content, self.ports = content, ports
        self.remaining = float(size)  # bytes, at the time `since`
        self.rate = self.since = 0.0
        self.version = 0  # grows whenever the rate changes


def share(ports: Iterable[Port], now: float) -> list[Flow]:
    """Share `ports`, and all that flows connect them with, anew; the flows with a new rate."""
    flows, reached = _connected(ports)
    for flow in flows:
        flow.remaining = max(0.0, flow.remaining - flow.rate * (now - flow.since))
        flow.since = now
    room = {port: port.bandwidth for port in reached}
    number = {port: len(port.flows) for port in reached}
    rates: dict[Flow, float] = {}
    while number:
        least = min(room[port] / count for port, count in number.items())
        full = [port for port, count in number.items() if room[port] / count <= least * (1 + 1e-9)]
        for port in full:
            for flow in port.flows:
                if flow in rates:
                    continue
                rates[flow] = least
                for passed in flow.ports:
                    room[passed] -= least
                    number[passed] -= 1
        number = {port: count for port, count in number.items() if count}
    changed = []
    for flow, rate in rates.items():
        if rate != flow.rate:
            flow.rate = rate
            flow.version += 1
            changed.append(flow)
    return changed


def _connected(ports: Iterable[Port]) -> tuple[dict[Flow, None], dict[Port, None]]:
    """All flows and ports that share something with these, directly or not."""
    reached: dict[Port, None] = {port: None for port in ports if port.flows}
    flows: dict[Flow, None] = {}
    todo = list(reached)
    while todo:
        for flow in todo.pop().flows:
            if flow not in flows:
                flows[flow] = None
                for port in flow.ports:
                    if port not in reached:
                        reached[port] = None
                        todo.append(port)
    return flows, reached
