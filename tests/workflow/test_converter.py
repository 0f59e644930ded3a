from __future__ import annotations

import copy
import json
import pickle
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from durabletask.serialization import JsonDataConverter
from pydantic import BaseModel

from bridge.workflow import DataConverter


class Line(BaseModel):
    sku: str
    quantity: int


class Order(BaseModel):
    id: str
    lines: list[Line] = []
    paid: Decimal = Decimal(0)


class Point(NamedTuple):
    x: int
    y: int = 0


@dataclass
class Parcel:
    id: str
    order: Order
    at: Point | None = None


@dataclass
class Plain:
    id: str
    number: int = 1


class Colour(Enum):
    RED = "red"


class Hooked:
    def to_json(self) -> Any:
        return {"hooked": Line(sku="a", quantity=1)}


CONVERTER = DataConverter()
ORDER = Order(id="o-1", lines=[Line(sku="a", quantity=2)], paid=Decimal("1.50"))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (ORDER, Order),
        ([ORDER, ORDER], list[Order]),
        ({"a": ORDER}, dict[str, Order]),
        (ORDER, Order | None),
        (Point(1, 2), Point),
        ([Point(1, 2)], list[Point]),
        (Parcel("p", ORDER, Point(3)), Parcel),
        (Plain("p", 2), Plain),
        ("text", str),
        (2**70, int),
    ],
)
def test_round_trip(value: Any, kind: Any) -> None:
    assert CONVERTER.deserialize(CONVERTER.serialize(value), kind) == value


def test_a_named_tuple_is_read_from_an_object_too() -> None:
    assert CONVERTER.deserialize('{"x": 4}', Point) == Point(4, 0)
    assert CONVERTER.coerce({"x": 4, "y": 5}, Point) == Point(4, 5)


def test_what_does_not_fit_tells_the_places_and_no_values() -> None:
    with pytest.raises(TypeError, match=r"does not fit Order: lines\.0\.quantity: ") as caught:
        CONVERTER.deserialize('{"id": "o", "lines": [{"sku": "s", "quantity": "secret"}]}', Order)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [None, 1, "ü", [1, {"a": None}], Plain("p"), Colour.RED, SimpleNamespace(a=1), (1, 2), {"b": 1, "a": 2}]
)
def test_what_the_sdk_can_write_is_written_as_the_sdk_does(value: Any) -> None:
    assert CONVERTER.serialize(value) == JsonDataConverter().serialize(value)


def test_it_writes_more_than_the_sdk() -> None:
    assert CONVERTER.serialize(datetime(2026, 1, 2, tzinfo=UTC)) == '"2026-01-02T00:00:00Z"'
    assert CONVERTER.serialize(Hooked()) == '{"hooked": {"sku": "a", "quantity": 1}}'
    with pytest.raises(TypeError, match="type object has no JSON form"):
        CONVERTER.serialize(object())


def test_it_claims_only_what_it_can_rebuild() -> None:
    for kind in (Order, Point, Plain, Parcel, list[Point], Order | None):
        assert CONVERTER.can_reconstruct(kind)
    for kind in (str, int, dict, Any, object, list[int], tuple):  # type: ignore[assignment]  # wider than its annotation, on purpose
        assert not CONVERTER.can_reconstruct(kind)


def test_a_mapping_that_lacks_fields_of_a_dataclass_names_them_when_one_is_read() -> None:
    @dataclass
    class Expense:
        id: str
        amount: float
        note: str = ""

    for kind in (Expense, Expense | None):
        found = DataConverter().deserialize('{"amount": 5}', kind)
        assert found == {"amount": 5}
        assert found["amount"] == 5
        assert json.loads(DataConverter().serialize(found) or "") == {"amount": 5}
        assert copy.deepcopy(found) == pickle.loads(pickle.dumps(found)) == found
        with pytest.raises(AttributeError, match=r"^input: the field id is missing, which Expense needs$"):
            _ = found.id
    with pytest.raises(AttributeError, match="the fields id, amount are missing"):
        _ = DataConverter().coerce({}, Expense).amount
    assert DataConverter().deserialize('{"id": "1", "amount": 5}', Expense) == Expense("1", 5)
    assert type(DataConverter().deserialize('{"amount": 5}', dict)) is dict
