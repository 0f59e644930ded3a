"""Editing of payloads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.app.dead_letters.editing import JsonBody
from bridge.core.errors import InvalidCommand

ORDER = (
    b'{"id": 7, "total": "12", "lines": [{"sku": "a", "n": 1}], "price": 0.1000000000000000055511, '
    b'"big": 123456789012345678901}'
)


def edited(body: bytes, *assignments: str) -> Any:
    document = JsonBody.of(body, False)
    for each in assignments:
        document = document.set(each)
    return json.loads(document.body)


def test_members_are_set_to_json_values_and_other_texts() -> None:
    found = edited(ORDER, "payload.total=12.5", "payload.lines[0].sku=b", 'payload.new={"x": null}')
    assert (found["total"], found["lines"], found["new"]) == (12.5, [{"sku": "b", "n": 1}], {"x": None})


def test_numbers_that_are_not_edited_stay_as_they_are() -> None:
    body = JsonBody.of(ORDER, False).set("payload.total=1e400").body
    assert b'"price":0.1000000000000000055511' in body
    assert b'"big":123456789012345678901' in body
    assert b'"total":1e400' in body


def test_the_payload_of_a_cloud_event_is_its_data() -> None:
    event = b'{"specversion": "1.0", "id": "1", "data": {"total": 1}}'
    document = JsonBody.of(event, True)
    assert json.loads(document.payload_text()) == {"total": 1}
    assert json.loads(document.set("payload.total=2").body) == {"specversion": "1.0", "id": "1", "data": {"total": 2}}


@pytest.mark.parametrize(
    "assignment",
    ["total=1", "payload.total", "payload.a.b=1", "payload.lines[3].n=1", "payload.id.x=1", "payload..x=1"],
)
def test_a_place_that_is_not_there_is_refused(assignment: str) -> None:
    with pytest.raises(InvalidCommand):
        JsonBody.of(ORDER, False).set(assignment)


def test_the_edited_document_is_another_one() -> None:
    document = JsonBody.of(ORDER, False)
    document.set("payload.total=1").patched(b'[{"op": "remove", "path": "/id"}]')
    assert json.loads(document.body) == json.loads(ORDER)


# RFC 7396, appendix A
@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
        ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
        ('{"a":"b"}', '{"a":null}', "{}"),
        ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
        ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
        ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
        ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
        ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
        ('["a","b"]', '{"c":"d"}', '{"c":"d"}'),
        ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
        ('{"a":"foo"}', '{"b":{"c":null}}', '{"a":"foo","b":{}}'),
        ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
    ],
)
def test_merge_patches(target: str, patch: str, result: str) -> None:
    assert json.loads(JsonBody.of(target.encode(), False).patched(patch.encode()).body) == json.loads(result)


def test_patches() -> None:
    patch = (
        b'[{"op": "test", "path": "/id", "value": 7}, {"op": "replace", "path": "/lines/0/n", "value": 2.50}, '
        b'{"op": "test", "path": "/lines/0/n", "value": 2.5}]'
    )
    body = JsonBody.of(ORDER, False).patched(patch).body
    assert json.loads(body)["lines"] == [{"sku": "a", "n": 2.5}]
    assert b'"price":0.1000000000000000055511' in body


@pytest.mark.parametrize(
    "patch",
    [
        b'[{"op": "test", "path": "/total", "value": "secret-7"}]', b'[{"op": "remove", "path": "/nowhere"}]',
        b'[{"op": "jump", "path": "/id"}]', b"[1]", b"7", b"no json", b'[{"op": "add"}]',
        b'[{"op": "replace", "path": 5, "value": 1}]', b"[NaN]",
    ],
)  # fmt: skip
def test_a_patch_that_does_not_fit_is_refused_without_the_payload(patch: bytes) -> None:
    with pytest.raises(InvalidCommand) as caught:
        JsonBody.of(ORDER, False).patched(patch)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("body", [None, b"", b"\x00\x01", b"<xml/>", b"NaN", b'{"a": Infinity}'])
def test_a_body_that_is_no_json_is_refused_with_the_next_step(body: bytes | None) -> None:
    with pytest.raises(InvalidCommand, match="bridge dlq export"):
        JsonBody.of(body, False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_an_untouched_payload_keeps_its_value_through_the_editor(value: Any) -> None:
    body = json.dumps(value).encode()
    document = JsonBody.of(body, False)
    assert json.loads(document.with_payload_text(document.payload_text()).body) == value


@given(JSON, JSON)
def test_a_merge_patch_never_breaks(value: Any, patch: Any) -> None:
    document = JsonBody.of(json.dumps(value).encode(), False)
    try:
        json.loads(document.patched(json.dumps(patch).encode()).body)
    except InvalidCommand:
        assert not isinstance(patch, dict)
