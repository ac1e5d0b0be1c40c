"""Configurations that say anything: taken, or refused in words, and nothing else is touched."""

import random
from dataclasses import asdict

from long import LONG
from touched import TOUCHED

from hpcpar.config import Config, parse
from hpcpar.errors import UserError
from hpcpar.run import replayable

COUNT = 10_000 if LONG else 300
JUNK = (
    "true", "-1", "0", "1", "1e308", "-inf", "nan", "0x7fffffffffffffff", "99999999999999999999",
    "1979-05-27T07:32:00Z", '""', '"a"', '"../../../etc/passwd"', "'\\u0000'", "[]", "[[[]]]", "{}",
    "[1, 'a', {}]", '{run = {dir = "/"}}', "[run]", "[[model]]", "[run.dir]", "= 1", "a.b.c = 1",
    "__class__ = 1", '"""', "\\x1b[2J", "#", "\n", "steps = 1", "[optim]\nname = 'os.system'",
)  # fmt: skip


def twisted(text: str, luck: random.Random) -> bytes:
    """With one to four things replaced, removed, doubled or put in."""
    lines = text.splitlines()
    for _ in range(luck.randint(1, 4)):
        at, way = luck.randrange(len(lines)), luck.random()
        key, equals, _ = lines[at].partition(" = ")
        if way < 0.5 and equals:
            lines[at] = f"{key} = {luck.choice(JUNK)}"
        elif way < 0.65:
            lines.insert(at, luck.choice(JUNK))
        elif way < 0.8:
            lines.insert(at, luck.choice(lines))
        elif len(lines) > 1:
            del lines[at]
    data = bytearray("\n".join(lines).encode())
    if luck.random() < 0.3:
        data[luck.randrange(len(data))] = luck.randrange(256)
    if luck.random() < 0.1:
        del data[luck.randrange(len(data)) :]
    return bytes(data)


def test_files_that_say_anything(tmp_path, listening):
    luck, text = random.Random(7), replayable(Config())
    path, taken = tmp_path / "run.toml", 0
    path.write_text(text)
    parse([str(path)])  # what is loaded by the first is no matter of the others
    TOUCHED[1:] = []
    for number in range(COUNT):
        path.write_bytes(twisted(text, luck))
        try:
            config = parse([str(path)])
        except UserError as error:
            said = str(error)
            assert said.isprintable() and 0 < len(said) < 1500, (number, said)
            continue
        taken += 1
        assert asdict(config)["steps"] >= 1
    assert 0 < taken < COUNT
    assert set(listening()) == {str(path)}
