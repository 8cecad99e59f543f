"""The parameter space: flat vectors and named blocks are the same numbers in the same places."""

from __future__ import annotations

import fnmatch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thalweg.foundation import InvalidInputError, ParameterSpace

shapes = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=5).filter(
    lambda found: any(torch.Size(shape).numel() for shape in found)
)
batches = st.lists(st.integers(0, 3), max_size=2).map(tuple)


def space_of(found: list[tuple[int, ...]]) -> ParameterSpace:
    return ParameterSpace({f"layers.{i}.weight": shape for i, shape in enumerate(found)})


@given(shapes, batches)
def test_flatten_undoes_unflatten(found: list[tuple[int, ...]], batch: tuple[int, ...]) -> None:
    space = space_of(found)
    theta = torch.randn(*batch, space.size, generator=torch.Generator().manual_seed(0))
    blocks = space.unflatten(theta)
    assert {name: tuple(block.shape) for name, block in blocks.items()} == {
        f"layers.{i}.weight": (*batch, *shape) for i, shape in enumerate(found)
    }
    assert torch.equal(space.flatten(blocks), theta)


@given(shapes)
def test_an_address_points_at_the_number(found: list[tuple[int, ...]]) -> None:
    space = space_of(found)
    theta = torch.arange(float(space.size))
    blocks = space.unflatten(theta)
    for coordinate in range(space.size):
        name, index = space.address(coordinate)
        assert int(blocks[name][index]) == coordinate
        assert space.address(coordinate - space.size) == (name, index)


@given(shapes, st.data())
def test_select_gives_the_coordinates_of_the_blocks_that_match(
    found: list[tuple[int, ...]], data: st.DataObject
) -> None:
    space = space_of(found)
    pattern = data.draw(st.sampled_from([*space.names, "*", "layers.*", "*.0.*", "layers.?.weight"]))
    if not fnmatch.filter(space.names, pattern):
        with pytest.raises(InvalidInputError, match="matches no block"):
            space.select(pattern)
        return
    chosen = space.select(pattern).tolist()
    assert chosen == [c for c in range(space.size) if fnmatch.fnmatch(space.address(c)[0], pattern)]


def test_select_lays_several_patterns_in_the_order_of_the_space_once_each() -> None:
    space = ParameterSpace({"a": (2,), "b": (1,), "c": (2,)})
    assert space.select(["c", "a", "*"]).tolist() == [0, 1, 2, 3, 4]
    assert space.select(["c", "a"]).tolist() == [0, 1, 3, 4]


def test_flatten_repeats_unbatched_blocks_over_the_batch() -> None:
    space = ParameterSpace({"a": (2,), "b": ()})
    theta = space.flatten({"a": torch.zeros(3, 2), "b": torch.tensor(5.0)})
    assert theta.tolist() == [[0.0, 0.0, 5.0]] * 3


def test_unflatten_gives_views() -> None:
    space = ParameterSpace({"a": (2, 2)})
    theta = torch.zeros(4)
    space.unflatten(theta)["a"][1, 1] = 7
    assert theta.tolist() == [0, 0, 0, 7]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda s: s.flatten({"a": torch.zeros(2)}), r"missing \['b'\], unknown \[\]"),
        (lambda s: s.flatten({"a": torch.zeros(2), "b": torch.zeros(()), "c": torch.zeros(1)}), r"unknown \['c'\]"),
        (lambda s: s.flatten({"a": torch.zeros(3), "b": torch.zeros(())}), r"'a' has shape \(3,\), expected"),
        (lambda s: s.unflatten(torch.zeros(4)), r"shape \(4,\), expected \(\*batch, 3\)"),
        (lambda s: s.address(3), "coordinate 3 outside a space of 3"),
        (lambda s: s.address(-4), "coordinate -4 outside"),
        (lambda s: s["weight"], "no block 'weight'; there are a, b"),
        (lambda s: s.select("w*"), r"'w\*' matches no block; there are a, b"),
        (lambda s: s.select(["a", "w"]), "'w' matches no block"),
        (lambda s: s.select([]), r"give one or more globs of block names, got \[\]"),
        (lambda s: s.select([["a"]]), r"globs of block names, got \[\['a'\]\]"),
        (lambda s: s.flatten({"a": [0.0, 1.0], "b": torch.zeros(())}), "block 'a' is a list, expected a tensor"),
        (lambda s: s.flatten({"a": torch.zeros(3, 2), "b": torch.zeros(4)}), r"do not fit together: \(3,\), \(4,\)"),
        (lambda _: ParameterSpace({"a": (-1,), "b": (3,)}), r"no negative lengths, got \[\(-1,\), \(3,\)\]"),
        (lambda _: ParameterSpace([("a", (1,)), ("a", (2,))]), "block names must differ"),
        (lambda _: ParameterSpace({"a": (0, 3)}), "at least one coordinate"),
        (lambda _: ParameterSpace({}), "at least one coordinate"),
    ],
)
def test_misuse_says_what_was_found(act, message) -> None:
    with pytest.raises(InvalidInputError, match=message):
        act(ParameterSpace({"a": (2,), "b": ()}))


def test_equality_is_of_names_shapes_and_order() -> None:
    space = ParameterSpace({"a": (2,), "b": (2,)})
    assert space == ParameterSpace([("a", [2]), ("b", [2])])
    assert hash(space) == hash(ParameterSpace({"a": (2,), "b": (2,)}))
    assert space != ParameterSpace({"b": (2,), "a": (2,)})
    assert space != ParameterSpace({"a": (1, 2), "b": (2,)})
    assert "a" in space
    assert "c" not in space
    assert repr(space) == "ParameterSpace(P=4; a: 2, b: 2)"
