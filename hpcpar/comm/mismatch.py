"""One sentence on ranks whose calls do not fit together: who, which values, where in the code.

The same on every rank: it is made from the records of all of them.
"""

from collections.abc import Callable, Mapping, Sequence

from hpcpar.comm.record import Record

__all__ = ["collective_mismatch", "message_mismatch"]


def collective_mismatch(number: int, records: Sequence[Record]) -> str:
    """For the records of all ranks, in their order. Ranks that say the same are named together.

    >>> collective_mismatch(118, records)
    allreduce #118: rank 3 has float64[9] at a.py:141 where ranks 0 to 2 have float32[9] at a.py:139
    """
    failed = {rank: record for rank, record in enumerate(records) if record.failure}
    if failed:
        return "; ".join(
            f"{_ranks_text(ranks)} {_not_started(records[ranks[0]], f' #{number}')}"
            for ranks in _groups(failed)
        )
    operations = dict(enumerate(record.operation for record in records))
    if len(set(operations.values())) > 1:
        return _contrast(
            records, operations, ("is", "are"), lambda record: f"in {record.operation} #{number}"
        )
    common = set.intersection(*(set(record.facts) for record in records))
    return f"{operations[0]} #{number}: " + _contrast(
        records,
        dict(enumerate(record.agreed for record in records)),
        ("has", "have"),
        lambda record: ", ".join(fact for fact in record.facts if fact not in common),
    )


def message_mismatch(tag: int, source: int, sent: Record, dest: int, wanted: Record) -> str:
    """For the two records of a message."""
    message = f"message from rank {source} to rank {dest} with tag {tag}"
    for rank, record in ((source, sent), (dest, wanted)):
        if record.failure:
            return f"{message}: rank {rank} {_not_started(record)}"
    return (
        f"{message}: rank {source} sends {sent.agreed} at {sent.where} "
        f"where rank {dest} receives {wanted.agreed} at {wanted.where}"
    )


def _not_started(record: Record, number: str = "") -> str:
    return f"could not start {record.operation}{number}: {record.failure} ({record.where})"


def _contrast(
    records: Sequence[Record],
    said: Mapping[int, str],
    verbs: tuple[str, str],
    phrase: Callable[[Record], str],
) -> str:
    """Those that differ, then the ones that most ranks agree with."""
    groups = _groups(said)
    most = max(groups, key=len)
    groups.remove(most)

    def clause(ranks: Sequence[int]) -> str:
        record = records[ranks[0]]
        verb = verbs[len(ranks) > 1]
        return f"{_ranks_text(ranks)} {verb} {phrase(record)} at {record.where}"

    return f"{' and '.join(map(clause, groups))} where {clause(most)}"


def _groups(said: Mapping[int, object]) -> list[list[int]]:
    """Ranks that say the same, in the order of their lowest ranks."""
    groups: dict[object, list[int]] = {}
    for rank, text in said.items():
        groups.setdefault(text, []).append(rank)
    return list(groups.values())


def _ranks_text(ranks: Sequence[int]) -> str:
    """rank 3; ranks 0 and 1; ranks 0 to 6; ranks 0 to 2, 5 and 7."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    parts = [
        text
        for run in runs
        for text in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run))
    ]
    words = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"rank{'s' if len(ranks) > 1 else ''} {words}"
