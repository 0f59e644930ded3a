"""Mechanical fixes keep everything else of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.app.check.configuration import check
from bridge.app.check.fixes import fixes, write
from bridge.config.yaml.edits import rewrite

HEAD = """\
# a comment
engine: {type: embedded}   # another
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], no_match: ignore}}
routes:
"""
RULE = (
    "  - {{name: a, from: orders, match: {{type: a}}, {keys}schedule: {{orchestration: x, instance_id: {id}}}}}   # c\n"
)
ID = '"a-{{ payload.id }}"'


def fixed(tmp_path: Path, text: str) -> str:
    """Text after all fixes."""
    file = tmp_path / "bridge.yaml"
    file.write_bytes(text.encode())
    for _ in range(3):
        report = check([file], imports=False)
        assert report.loaded is not None
        for each in fixes(report.loaded, report.problems):
            assert each.diff().startswith(f"--- {file}")
            write(each)
    return file.read_bytes().decode()


@pytest.mark.parametrize(
    ("keys", "id_", "keys_then", "id_then"),
    [
        ("", '"a-{payload.id}"', "", ID),
        ("", "'a-{payload.id}'", "", "'a-{{ payload.id }}'"),
        ("", "payload.id", "", '"{{ payload.id }}"'),
        ('when: "{{ payload.total > 5 }}", ', ID, 'when: "payload.total > 5", ', ID),
        ("when: payload.a = 5 and payload.b, ", ID, "when: payload.a == 5 && payload.b, ", ID),
        ("when: not payload.b, ", ID, 'when: "! payload.b", ', ID),
        ("""when: 'payload.a = "x"', """, ID, """when: 'payload.a == "x"', """, ID),
        ("""when: "payload.a = 'x'", """, ID, """when: "payload.a == 'x'", """, ID),
        ("continue: yes, ", ID, "continue: true, ", ID),
        ("continue: 'off', ", ID, "continue: false, ", ID),
    ],
)
def test_one_value(tmp_path: Path, keys: str, id_: str, keys_then: str, id_then: str) -> None:
    before, after = RULE.format(keys=keys, id=id_), RULE.format(keys=keys_then, id=id_then)
    assert fixed(tmp_path, HEAD + before) == HEAD + after


def test_several_values_in_one_line_and_in_several_rules(tmp_path: Path) -> None:
    rule = """\
  - name: a
    from: orders
    match: {key: 5, headers.x: [true, "b"], type: a}   # key: 5
    raise_event: {instance_id: "a-{payload.id}{{ payload.b }}", name: "{payload.id}", on_missing: {park: 1h}}
"""
    assert (
        fixed(tmp_path, HEAD + rule)
        == HEAD
        + """\
  - name: a
    from: orders
    match: {key: "5", headers.x: ["true", "b"], type: a}   # key: 5
    raise_event: {instance_id: "a-{{ payload.id }}{{ payload.b }}", name: "{{ payload.id }}", on_missing: {wait: 1h}}
"""
    )


def test_unused_suppressions_are_removed_with_their_line(tmp_path: Path) -> None:
    rule = RULE.format(keys="", id=ID)
    text = HEAD + "  # bridge: ignore[R010] not any more\n" + rule.replace("# c", "# bridge: ignore[R011] nor this")
    assert fixed(tmp_path, text) == HEAD + rule.replace("   # c", "")


@pytest.mark.parametrize(
    "value",
    [
        "|\n      payload.a = 5\n",
        ">-\n      payload.a\n      = 5\n",
        '"payload.a\n      = 5"\n',
        "payload.a = \n",
        "payload.a ~= 5\n",
    ],
)
def test_values_that_stay(tmp_path: Path, value: str) -> None:
    text = f"{HEAD}  - name: a\n    from: orders\n    when: {value}    ignore: {{}}\n"
    assert fixed(tmp_path, text) == text


def test_line_ends_byte_order_mark_and_permissions_stay(tmp_path: Path) -> None:
    text = "\ufeff" + (HEAD + RULE.format(keys="", id='"a-{payload.id}"')).replace("\n", "\r\n")
    (tmp_path / "bridge.yaml").touch(mode=0o640)
    (tmp_path / "bridge.yaml").chmod(0o640)
    assert fixed(tmp_path, text) == text.replace("{payload.id}", "{{ payload.id }}")
    assert (tmp_path / "bridge.yaml").stat().st_mode & 0o777 == 0o640
    assert [each.name for each in tmp_path.iterdir()] == ["bridge.yaml"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    real = tmp_path / "there" / "real.yaml"
    real.write_text(HEAD + RULE.format(keys="", id='"a-{payload.id}"'))
    link = tmp_path / "bridge.yaml"
    link.symlink_to(real)
    report = check([link], imports=False)
    assert report.loaded is not None
    (change,) = fixes(report.loaded, report.problems)
    write(change)
    assert link.is_symlink()
    assert "{{ payload.id }}" in real.read_text()


def test_overlays_are_fixed_in_their_own_file(tmp_path: Path) -> None:
    config, overlay = tmp_path / "bridge.yaml", tmp_path / "prod.yaml"
    config.write_text(HEAD + RULE.format(keys="", id=ID))
    overlay.write_text('routes:\n  - name: a\n    when: "{{ payload.a }}"\n')
    report = check([config], [overlay], imports=False)
    assert report.loaded is not None
    (change,) = fixes(report.loaded, report.problems)
    assert (change.path, change.new) == (overlay, 'routes:\n  - name: a\n    when: "payload.a"\n')


def test_values_of_the_environment_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREATE", "yes")
    text = HEAD.replace(
        "{type: local}", '{type: kafka, bootstrap_servers: "localhost:9092", create_topics: "${CREATE}"}'
    )
    text += RULE.format(keys="", id=ID)
    assert fixed(tmp_path, text) == text


def test_a_change_that_would_change_more_is_not_made() -> None:
    text = "a: [x, y]\nb: x\n"
    assert rewrite(text, {(1, 5): "z", (2, 4): True}) == "a: [z, y]\nb: true\n"
    assert rewrite(text, {(1, 1): "b", (2, 4): "z"}) == "a: [x, y]\nb: z\n"  # the key would occur twice
    assert rewrite(text, {(9, 9): "z"}) == text
    assert rewrite("a: *x\n", {(1, 4): "z"}) == "a: *x\n"
