"""The common checks of a method that compresses the cache (``pack``); see :mod:`foveate.testing.checks`.

They take the method's instances and made-up entries from there.
"""

from __future__ import annotations

import dataclasses
import gc
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

#: Entries in the test inputs: fewer than any window, and more than several.
SIZES = (1, 2, 3, 40, 300)
Inputs = Callable[..., Iterator[Any]]
Instances = Callable[..., Iterator[Any]]
Body = Callable[[Any, Instances, Inputs], None]
_ALL: list[tuple[str, Body]] = []


def checks(instances: Instances, inputs: Inputs) -> list[tuple[str, Callable[[type[Any]], None]]]:
    """Names and bodies of the checks, given how instances of a method and its inputs are made."""
    return [(name, partial(_run, body, instances, inputs)) for name, body in _ALL]


def _run(body: Body, instances: Instances, inputs: Inputs, cls: type[Any]) -> None:
    body(cls, instances, inputs)


def _check(body: Any) -> Any:
    _ALL.append((body.__name__.removeprefix("_"), body))
    return body


def _need(fact: Any, message: str) -> None:
    if not bool(fact):
        raise AssertionError(message)


def held(x: Any) -> int:
    """Bytes of all tensor storages that an object reaches, found by following references and not by asking it."""
    seen, found, todo = set(), {}, [x]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, (type, str, int, float, torch.dtype)) or callable(one):
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            found[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        else:
            todo += gc.get_referents(one)
    return sum(found.values())


def both(store: Any) -> Tensor:
    """Keys and values (2, B, g, n, d)."""
    return torch.stack(store.read())


@_check
def _reads(cls: Any, instances: Instances, inputs: Inputs) -> None:
    for m in instances(cls):
        for n, kind in [(n, "clustered") for n in SIZES] + [(40, k) for k in ("repeated", "identical", "zero")]:
            for data in inputs(cls, kind, n=n):
                store = m.pack(data)
                out = both(store)
                _need(store.n == n, f"{m} holds {store.n} of {n} entries")
                _need(out[0].shape == data.keys.shape, f"{m} on {n} entries reads {tuple(out[0].shape)}")
                _need(torch.isfinite(out).all(), f"{m} on {n} {kind} entries is not finite")
                _need(kind != "zero" or not out.any(), f"{m} reads zeros as something else")


@_check
def _counts(cls: Any, instances: Instances, inputs: Inputs) -> None:
    for m in instances(cls):
        for data in inputs(cls, "clustered", n=300):
            store = m.pack(data)
            for step in range(3):
                _need(store.nbytes == held(store), f"{m} says {store.nbytes} bytes and holds {held(store)} ({step})")
                store.append(data.keys[:, :, :50], data.values[:, :, :50])
            store.crop(170)
            _need(store.nbytes == held(store), f"{m} says {store.nbytes} bytes and holds {held(store)} after a crop")


@_check
def _apart(cls: Any, instances: Instances, inputs: Inputs) -> None:
    for m in instances(cls):
        for data in inputs(cls, "clustered", n=300):
            whole = both(m.pack(data))
            tensors = {f.name: getattr(data, f.name) for f in dataclasses.fields(data)}
            for b in range(data.keys.shape[0]):
                one = {k: v[b : b + 1] for k, v in tensors.items() if isinstance(v, Tensor)}
                alone = both(m.pack(dataclasses.replace(data, **one)))
                _need(torch.allclose(alone, whole[:, b : b + 1], atol=1e-4), f"{m} packs row {b} alone otherwise")


@_check
def _same(cls: Any, instances: Instances, inputs: Inputs) -> None:
    for m in instances(cls):
        for data in inputs(cls, "clustered", n=300):
            before, state, python = data.keys.clone(), torch.get_rng_state(), random.getstate()
            first = both(m.pack(data))
            _need(torch.equal(torch.get_rng_state(), state), f"{m} moves torch's global random state")
            _need(random.getstate() == python, f"{m} moves Python's global random state")
            _need(torch.equal(both(m.pack(data)), first), f"{m} packs otherwise the second time")
            _need(torch.equal(data.keys, before), f"{m} changes its input")


@_check
def _half(cls: Any, instances: Instances, inputs: Inputs) -> None:
    for m in instances(cls):
        for dtype in (torch.float16, torch.bfloat16):
            for data in inputs(cls, "clustered", n=300, dtype=dtype):
                store = m.pack(data)
                out = both(store)
                _need(out.dtype == dtype, f"{m} turns {dtype} into {out.dtype}")
                _need(torch.isfinite(out).all(), f"{m} in {dtype} is not finite")
                _need(store.nbytes < 2 * data.keys.nbytes, f"{m} takes {store.nbytes} bytes of {2 * data.keys.nbytes}")


@_check
def _grows(cls: Any, instances: Instances, inputs: Inputs) -> None:
    for m in instances(cls):
        for data in inputs(cls, "clustered", n=300):
            store = m.pack(data)
            for at in (0, 1, 2, 30, 250):
                store.append(data.keys[:, :, at : at + 7], data.values[:, :, at : at + 7])
            _need(store.n == 335, f"{m} holds {store.n} entries after 35 more")
            before = both(store)
            store.crop(333)
            _need(torch.equal(both(store)[..., :300, :], before[..., :300, :]), f"{m} loses more than it crops")
            for n in (301, 300, 299, 150, 41, 1, 0):
                store.crop(n)
                _need(store.n == n == store.read()[0].shape[2], f"{m} cropped to {n} holds {store.n}")
            store.append(data.keys, data.values)
            _need(store.n == 300 and torch.isfinite(both(store)).all(), f"{m} cannot be filled again")


@_check
def _selects(cls: Any, instances: Instances, inputs: Inputs) -> None:
    rows = torch.tensor([2, 0, 0, 1])
    for m in instances(cls):
        for data in inputs(cls, "clustered", n=300):
            store = m.pack(data)
            before = both(store)
            store.select(rows)
            _need(torch.equal(both(store), before[:, rows]), f"{m} mixes the rows it selects")
            store.append(data.keys[rows], data.values[rows])
            after = both(store)
            _need(after.shape[3] == 600 and torch.equal(after[:, 1], after[:, 2]), f"{m} cannot grow after a selection")
            _need(store.nbytes == held(store), f"{m} says {store.nbytes} bytes and holds {held(store)}")


@_check
def _pads(cls: Any, instances: Instances, inputs: Inputs) -> None:
    for m in instances(cls):
        for data in inputs(cls, "clustered", n=300):
            valid = torch.arange(300) >= torch.tensor([0, 20, 290])[:, None]
            wild = torch.where(valid[:, None, :, None], data.keys, 1e4)
            out = both(m.pack(dataclasses.replace(data, keys=wild, valid=valid)))
            again = both(m.pack(dataclasses.replace(data, keys=wild * 0 + data.keys, valid=valid)))
            real = valid[:, None, :, None]
            _need(torch.isfinite(out).all(), f"{m} is not finite with padding")
            _need(torch.allclose((out * real), (again * real), atol=1e-4), f"{m} lets padding change other entries")


NAMES = {name for name, _ in _ALL}
