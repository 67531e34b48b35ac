"""Blocks on disk give back the log, each once a pass, and a damaged one is told."""

import itertools
import threading

import chex
import jax
import numpy as np
import pytest

from metajax.data.histories import log as rows
from metajax.data.histories import stream
from metajax.types import UserError


def log(people: int = 23) -> rows.Log:
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 9, people))])
    items = rng.integers(0, 1000, offsets[-1]).astype(np.int32)
    return rows.Log(offsets, items, (items % 3 == 0).astype(np.int8))


def histories(block: rows.Log) -> list[tuple]:
    offsets, items, labels = jax.device_get(block)
    edges = itertools.pairwise(offsets)
    return [(tuple(items[a:b].tolist()), tuple(labels[a:b].tolist())) for a, b in edges]


def test_a_pass_visits_everyone_in_blocks_of_one_shape(tmp_path):
    whole = log()
    stream.write(whole, tmp_path, people=5)
    blocks = stream.Blocks(tmp_path)
    assert (len(blocks), blocks.people) == (5, 5)
    found = list(blocks.read(seed=0, epoch=0))
    shapes = {tuple(x.shape for x in block) for block in found}
    assert shapes == {((6,), (blocks.width,), (blocks.width,))}
    assert found[0].labels.dtype == np.int8
    everyone = histories(whole)
    met = [person for block in found for person in histories(block)]
    assert sorted(set(met)) == sorted(set(everyone)) and len(met) == 25
    last = histories(found[blocks.order(0, 0).tolist().index(4)])
    assert last == everyone[18:]


def test_passes_differ_in_order_and_go_on_where_they_stood(tmp_path):
    stream.write(log(), tmp_path, people=3)
    blocks = stream.Blocks(tmp_path)
    first = [histories(b) for b in blocks.read(seed=1, epoch=0)]
    assert first == [histories(b) for b in blocks.read(seed=1, epoch=0, ahead=0)]
    assert first[3:] == [histories(b) for b in blocks.read(seed=1, epoch=0, skip=3)]
    assert first != [histories(b) for b in blocks.read(seed=1, epoch=1)]
    assert sorted(blocks.order(1, 0)) == sorted(blocks.order(1, 1)) == list(range(8))


def test_blocks_are_read_while_one_is_in_use(tmp_path, monkeypatch):
    stream.write(log(), tmp_path, people=3)
    blocks = stream.Blocks(tmp_path)
    begun = [threading.Event() for _ in range(8)]
    read, count = stream.Blocks.block, iter(range(8))

    def noted(self, number):
        begun[next(count)].set()
        return read(self, number)

    monkeypatch.setattr(stream.Blocks, "block", noted)
    passing = blocks.read(seed=0, epoch=0, ahead=2)
    next(passing)
    assert begun[1].wait(10) and begun[2].wait(10)
    assert not begun[3].is_set()
    passing.close()


def test_one_program_serves_all_blocks(tmp_path):
    stream.write(log(), tmp_path, people=4)
    take = jax.jit(chex.assert_max_traces(lambda b, k: rows.draw(b, k, 3, 2).query.inputs, n=1))
    for i, block in enumerate(stream.Blocks(tmp_path).read(seed=0, epoch=0)):
        take(block, jax.random.key(i))


def test_a_damaged_block_and_an_unfinished_stream_are_told(tmp_path):
    whole = log()
    stream.write(whole, tmp_path, people=5)
    path = tmp_path / stream.FILE
    raw = bytearray(path.read_bytes())
    place = raw.find(np.asarray(whole.items[whole.offsets[5] : whole.offsets[10]]).tobytes())
    assert place > 0
    raw[place] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match="block 1 is damaged"):
        list(stream.Blocks(tmp_path).read(seed=0, epoch=0))
    (tmp_path / stream.MANIFEST).unlink()
    with pytest.raises(UserError, match="write it first"):
        stream.Blocks(tmp_path)
    with pytest.raises(UserError, match="a stream needs people"):
        stream.write(rows.Log(np.zeros(1, int), whole.items[:0], whole.labels[:0]), tmp_path, 5)
