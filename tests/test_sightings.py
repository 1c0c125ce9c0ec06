"""Ids kept as numbers: as many as there are ids, whatever they look like."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from unpod_async._paging import RowTracker, compact_keys

usual = st.integers(0, 2**128 - 1).map("T{:032x}".format)
# What is nearly an id of the service: capitals, spaces (which `bytes.fromhex` skips), its own letter again.
near = st.tuples(st.sampled_from("TRAJ"), st.text("0a4A5fT RJ", min_size=30, max_size=34)).map("".join)
ids = st.one_of(usual, near, st.text(max_size=40))


@given(st.lists(ids, max_size=20))
def test_different_ids_stay_different_and_equal_ones_equal(keys: list[str]) -> None:
    together = compact_keys(keys)
    assert len(set(together)) == len(set(keys))
    assert list(together) == [number for key in keys for number in compact_keys([key])]


@given(st.lists(usual, min_size=1, max_size=20, unique=True))
def test_ids_of_the_service_are_numbers(keys: list[str]) -> None:
    assert all(type(key) is int for key in compact_keys(keys))


@given(st.lists(ids, min_size=1, max_size=20, unique=True), st.data())
def test_a_row_has_the_place_where_it_was_seen_first(keys: list[str], data: st.DataObject) -> None:
    sightings = RowTracker()
    places: dict[str, int] = {}
    for _ in range(data.draw(st.integers(1, 6))):
        offset = data.draw(st.integers(0, len(keys)))
        shown = data.draw(st.lists(st.sampled_from(keys), max_size=8, unique=True))
        mark = sightings.observe(shown, offset)
        assert [shown[index] for index in mark.fresh] == [key for key in shown if key not in places]
        for index, key in enumerate(shown):
            places.setdefault(key, offset + index)
    assert len(sightings) == len(places)
    assert [sightings.first_position(key) for key in keys] == [places.get(key) for key in keys]
