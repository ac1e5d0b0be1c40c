"""The configuration of a run: a TOML file, and flags that win over it.

    python -m hpcpar.train [run.toml] [--section.key value ...]

Every key is a field of a dataclass that lives beside what it configures; this module only joins
them and reads them. jsonargparse does the parsing, the types and the help text.
"""

import dataclasses
import difflib
import json
import sys
import tomllib
import typing
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from hpcpar.checkpoint import CheckpointConfig
from hpcpar.comm import agree, together
from hpcpar.data import DataConfig
from hpcpar.entry import note
from hpcpar.errors import UserError, one_sentence
from hpcpar.limits import check_ranges
from hpcpar.nn import ModelConfig, complete_model
from hpcpar.optim import OptimConfig
from hpcpar.parallel.config import PLANNED, BatchConfig, ParallelConfig
from hpcpar.parallel.partition import check_partition
from hpcpar.run import RunConfig
from hpcpar.sync.config import SyncConfig
from hpcpar.threads import rank_threads

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from hpcpar.comm import Communicator

__all__ = ["Config", "given_keys", "parse", "share_config"]

T = TypeVar("T")

# What a resumed run must leave as it was: the model, and what its bits depend on.
FIXED = (
    "seed",
    "threads",
    "precision",
    "reproducible",
    "data",
    "model",
    "batch",
    "optim.name",
    "parallel.tiles",
)


@dataclass
class Config:
    """Everything that a training run is made of.

    Args:
        steps: Number of optimizer updates.
        seed: Seed of the weights and of the order of the samples.
        device: Where to compute; auto takes a GPU where CuPy sees one.
        threads: BLAS threads a rank; 0 takes OMP_NUM_THREADS, else SLURM_CPUS_PER_TASK, else 1.
        precision: Floating-point type of weights and activations.
        reproducible: ranks keeps the bits on any number of data and pipeline ranks; layout on
            tensor and context ranks too, for some of the speed; off allows any order of sums.
        timeout: Seconds before a wait for other ranks counts as a hang.
        recovery: What happens when a rank is lost: none ends the run; shrink goes on without it, on
            an MPI that can (mpirun --with-ft ulfm); relaunch ends it for python -m hpcpar launch,
            which starts it again from its state in memory.
        audit: Steps between two audits: another rank then computes a part of the gradient again,
            and one that computes wrongly is named; 0 for none.
    """

    steps: int = 400
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    precision: Literal["float32"] = "float32"
    reproducible: Literal["ranks", "layout", "off"] = "ranks"
    timeout: float = 60.0
    recovery: Literal["none", "shrink", "relaunch"] = "none"
    audit: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    run: RunConfig = field(default_factory=RunConfig)


def parse(arguments: Sequence[str]) -> Config:
    """The configuration that a command line asks for.

    A resumed run starts from its own config.toml, then the given file, then the flags. Raises
    `UserError` for an unknown key, a wrong type and a file that cannot be read; SystemExit after
    printing the help text.
    """
    files, flags = _split(arguments)
    config = _parse(files, flags)
    saved = Path(config.run.dir) / "config.toml"
    if config.run.dir and config.run.resume and saved.is_file():
        config = _resume(saved, files, flags)
    elif config.data.partition == "feature" and "parallel.tensor" not in given_keys(arguments):
        config.parallel.tensor = -1  # all ranks share the features
    check_ranges(_flatten(dataclasses.asdict(config)))
    config.threads = rank_threads(config.threads)
    config.model = complete_model(config.model)
    check_ranges(_flatten(dataclasses.asdict(config)))
    config.batch.check()
    apart = config.sync.servers > 0 or config.sync.mode == "local"
    check_partition(config.data, config.model.kind, config.parallel, apart)
    if config.parallel.plan:
        _check_plan(config, _named(flags))
    return config


def _check_plan(config: Config, named: set[str]) -> None:
    """Raises `UserError` for keys that a plan would choose."""
    for key in PLANNED:
        if getattr(config.parallel, key) != getattr(ParallelConfig, key) or (
            f"parallel.{key}" in named
        ):
            raise UserError(
                f"--parallel.plan auto chooses the layout: leave --parallel.{key} out, or the plan"
            )


def given_keys(arguments: Sequence[str]) -> set[str]:
    """The keys that a command line and its file name. Raises `UserError` for an unreadable file."""
    files, flags = _split(arguments)
    return _named(flags) | {name for path in files for name in _flatten(_read(path))}


def _named(flags: Sequence[str]) -> set[str]:
    return {flag[2:].partition("=")[0].rstrip("+") for flag in flags if flag.startswith("--")}


def share_config(comm: "Communicator", arguments: Sequence[str]) -> Config:
    """Rank 0 parses, all have the result, or all raise its `UserError`. Collective."""
    if {"--help", "-h"} & set(arguments):
        if comm.rank == 0:
            _parser().print_help()
        sys.exit(0)
    text = ""
    with together(comm):
        if comm.rank == 0:
            text = json.dumps(dataclasses.asdict(parse(arguments)))
    return _build(Config, json.loads(agree(comm, text)[0] or "{}"))


def _resume(saved: Path, files: Sequence[Path], flags: Sequence[str]) -> Config:
    """The saved configuration with the changes asked for; refuses those that change the bits."""
    before = _parse([saved], [])
    config = _parse([saved, *files], flags)
    config.run.dir, config.run.resume = str(saved.parent), True
    config.threads = config.threads or before.threads
    changed = {key: f"--{key} (was {was}, now {now})" for key, was, now in _changes(before, config)}
    if refused := _among(changed, FIXED):
        raise UserError(
            f"the run in {saved.parent} cannot be resumed with another {refused}: "
            "it would be another model, or have other bits; leave it out, or start a new run"
        )
    if told := _among(changed, ("steps", "optim")):
        note(f"from here on it is not the run that it would have been: another {told}")
    return config


def _absolute(path: str) -> str:
    """A path that means the same when resumed elsewhere; "" and sklearn:NAME are none."""
    return str(Path(path).absolute()) if path and not path.startswith("sklearn:") else path


def _among(changed: dict[str, str], names: Sequence[str]) -> str:
    """What changed among these keys and sections, as text."""
    return ", ".join(
        text
        for key, text in changed.items()
        if any(f"{key}.".startswith(f"{name}.") for name in names)
    )


def _changes(one: Config, other: Config) -> list[tuple[str, Any, Any]]:
    first, second = _flatten(dataclasses.asdict(one)), _flatten(dataclasses.asdict(other))
    return [(key, first[key], second[key]) for key in first if first[key] != second[key]]


def _parser() -> "ArgumentParser":
    from jsonargparse import ArgumentParser  # rank 0 alone pays for the import

    parser = ArgumentParser(
        prog="python -m hpcpar.train",
        usage="%(prog)s [run.toml] [--section.key value ...]",
        description="Train a model on all ranks of an MPI job: mpirun -n 8 python -m hpcpar.train.",
        exit_on_error=False,
    )
    parser.add_class_arguments(Config)
    return parser


def _parse(files: Sequence[Path], flags: Sequence[str]) -> Config:
    """The defaults, changed by each file in turn, then by the flags."""
    parser = _parser()
    known = _flatten(dataclasses.asdict(Config()))
    settings = None
    try:
        for path in files:
            table = _read(path)
            _refuse_unknown(_flatten(table), known, where=f"in {path}")
            settings = parser.parse_object(table, namespace=settings)
        _refuse_unknown(_named(flags), known, where="on the command line")
        parsed = parser.parse_args(_join_lists(flags, known), namespace=settings)
    except ArgumentError as error:
        raise UserError(one_sentence(str(error))) from None
    config = _build(Config, parsed.as_dict())
    config.data.paths = [_absolute(path) for path in config.data.paths]
    config.model.init_from = _absolute(config.model.init_from)
    return config


def _split(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """An optional file in front, the flags behind."""
    if arguments and not arguments[0].startswith("-"):
        return [Path(arguments[0])], list(arguments[1:])
    return [], list(arguments)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UserError(f"configuration file {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"configuration file {path} is not TOML: {error}") from None


def _refuse_unknown(names: typing.Iterable[str], known: dict[str, Any], where: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "see --help for all keys"
            raise UserError(f"unknown key {name} {where}: {hint}")


def _join_lists(flags: Sequence[str], known: dict[str, Any]) -> list[str]:
    """`--data.paths a b` and `--optim.betas 0.9,0.95` as the JSON list that the parser takes."""
    joined: list[str] = []
    rest = [word for flag in flags for word in _words(flag)]
    while rest:
        joined.append(flag := rest.pop(0))
        default = known.get(flag[2:])
        if not isinstance(default, (list, tuple)):
            continue
        words = []
        while rest and not rest[0].startswith("--"):
            words.append(rest.pop(0))
        if len(words) == 1 and words[0].startswith("["):
            joined.append(words[0])
        elif isinstance(default, tuple):  # of numbers
            joined.append(f"[{','.join(words)}]")
        else:
            joined.append(json.dumps(words))
    return joined


def _words(flag: str) -> list[str]:
    """--key=value as two words."""
    key, equals, value = flag.partition("=")
    return [key, value] if equals and flag.startswith("--") else [flag]


def _flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _build(kind: type[T], table: dict[str, Any]) -> T:
    types = typing.get_type_hints(kind)
    values = {
        name: _build(types[name], value)
        if dataclasses.is_dataclass(types[name])
        else tuple(value)
        if typing.get_origin(types[name]) is tuple
        else value
        for name, value in table.items()
    }
    return kind(**values)
