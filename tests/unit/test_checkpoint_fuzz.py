"""Manifests and headers that say anything: refused in words, and nothing else is touched."""

import hashlib
import json
import random
import shutil
from copy import deepcopy
from math import prod
from pathlib import Path

import pytest
from checkpoints import KINDS, same, save
from long import LONG
from touched import TOUCHED

from hpcpar.checkpoint import load
from hpcpar.checkpoint.manifest import _checksum
from hpcpar.checkpoint.part_file import header
from hpcpar.checkpoint.places import MANIFEST, part_name
from hpcpar.errors import UserError

COUNT = 10_000 if LONG else 300
JUNK = (
    None, True, False, 0, 1, -1, 3, 12, 1 << 31, 1 << 62, 1 << 63, 1 << 64, 10**40, 0.5, 1e308, "",
    "weights", "a.weight", "../../part-0000.safetensors", "/etc/passwd", "part-0000.safetensors",
    "\x1b[2J", "\ud800", "a" * 2000, "9" * 40, [], {}, [[]], [0, 3, 2], [[0, 3]], {"0": 1},
    ["b", [2], None, 0, 2], ["b", [1 << 40, 1 << 40], None, 0, 1 << 60], ["b", [2, 0], None, 0, 0],
    ["c", [2, 6], [1, [[0, 6, 2]]], 0, 6], ["c", [2, 6], [1, [[3, 3], [0, 3]]], 0, 6],
)  # fmt: skip


def twisted(fields, luck):
    """A copy with one to three things in it replaced, removed or doubled, at any depth."""
    fields = json.loads(json.dumps(fields))
    for _ in range(luck.randint(1, 3)):
        at = fields
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = luck.choice(keys)
            if isinstance(at[key], dict | list) and at[key] and luck.random() < 0.75:
                at = at[key]
                continue
            way = luck.random()
            if way < 0.15:
                del at[key]
            elif way < 0.25 and isinstance(at, list):
                at.append(deepcopy(at[key]))
            elif way < 0.4 and type(at[key]) is int:
                at[key] += luck.choice((-1, 1, 4))
            else:
                at[key] = deepcopy(luck.choice(JUNK))
            break
    return fields


def read_all(place):
    """The values of every tensor, as many as there can be; None where it is refused in words."""
    try:
        read = load(place)
        room = sum(path.stat().st_size for path in place.iterdir())
        tensors = (read.model, *read.optimizer.values())
        assert 4 * sum(prod(s) for kind in tensors for s in kind.shapes.values()) <= room
        return [{name: kind[name] for name in kind} for kind in tensors]
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 1500
        return None


def test_manifests_that_say_anything(tmp_path, listening):
    place = save(tmp_path, 1)
    manifest = place / MANIFEST
    whole, luck, accepted = json.loads(manifest.read_bytes()), random.Random(1), 0
    del whole["checksum"]
    TOUCHED[1:] = []
    for i in range(COUNT):
        fields = twisted(whole, luck)
        if i % 8:  # or the sum would tell
            fields["checksum"] = _checksum(fields)
        text = json.dumps(fields).encode()
        if i % 16 == 8:
            cut = luck.randrange(len(text))
            text = text[:cut] + luck.randbytes(luck.randrange(20)) + text[cut + 3 :]
        manifest.write_bytes(text)
        accepted += read_all(place) is not None
    assert {Path(path).parent for path in listening()} <= {place, place.parent}
    assert str(manifest) in listening()
    assert 0 < accepted < COUNT / 2, "what concerns no tensor may be anything"


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"null", b"1", b'"format"', b"\xff\xfe", b"[" * 100_000, b'{"format":2}',
        b'{"format":' + b"9" * 5000 + b"}", b'{"format":2,"balance":' + b"[" * 50_000,
        b'{"format":2,"format":NaN}', b'{"format": 3, "checksum": ""}', b"\0" * 1000,
    ],
    ids=range(13),
)  # fmt: skip
def test_manifests_that_are_none(tmp_path, text):
    place = save(tmp_path, 1)
    (place / MANIFEST).write_bytes(text)
    with pytest.raises(UserError, match=MANIFEST):
        load(place)


def test_headers_that_say_anything(tmp_path, listening):
    """Also where manifest and checksum agree with them."""
    place = save(tmp_path, 1)
    part, luck = place / part_name(0), random.Random(2)
    whole, content = json.loads((place / MANIFEST).read_bytes()), part.read_bytes()
    size = int.from_bytes(content[:8], "little")
    fields = json.loads(content[8 : 8 + size])
    TOUCHED[1:] = []
    for i in range(COUNT):
        text = json.dumps(twisted(fields, luck)).encode()
        length = luck.choice((len(text), size, 0, luck.getrandbits(64)))
        start = (length.to_bytes(8, "little") + text) if i % 3 else luck.randbytes(8 + size)
        if i % 2:  # of the right size
            start = start[: 8 + size].ljust(8 + size)
        part.write_bytes(start + content[8 + size :])
        fake = json.loads(json.dumps(whole))
        digest = hashlib.sha256(part.read_bytes()).hexdigest()
        fake["files"][0] |= {"bytes": part.stat().st_size, "sha256": digest}
        del fake["checksum"]
        (place / MANIFEST).write_text(json.dumps(fake | {"checksum": _checksum(fake)}))
        assert read_all(place) is None
    assert {Path(path).parent for path in listening()} <= {place, place.parent}
    assert header(KINDS, 13) == content[: 8 + size]
    shutil.rmtree(place)
    assert same(save(tmp_path, 1), 1)
