"""`bridge test`: fixtures, their differences, and invalid files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from xml.etree import ElementTree

import jsonschema_rs
import pytest
import yaml
from click.testing import CliRunner, Result

from bridge.cli import root
from bridge.config.source import Loaded, load
from bridge.testing.fixtures.document import InvalidFixtures, read_fixtures
from bridge.testing.fixtures.model import schema
from bridge.testing.fixtures.runner import FixtureRunner

CONFIG = """
engine: {type: embedded}
workflows: {external: [order_saga, follow_up, watch, stock_level]}
vars: {large: 1000.0}
brokers: {local: {type: local}}
sources:
  orders: {broker: local, topics: [orders, orders-eu], no_match: dead_letter}
  plain: {broker: local, topics: [plain], codec: json, no_match: ignore}
routes:
  - name: large
    from: orders
    match: {type: order.created}
    when: payload.total >= vars.large
    schedule: {orchestration: order_saga, instance_id: "order-{{ payload.id }}", input: "{'id': payload.id}", delay: 1h}
  - name: start
    from: orders
    match: {type: order.created}
    schedule: {orchestration: order_saga, instance_id: "order-{{ payload.id }}"}
  - {name: eu, from: orders, match: {topic: orders-eu}, ignore: {reason: elsewhere}}
  - name: paid
    from: orders
    match: {type: order.paid}
    raise_event: {instance_id: "order-{{ payload.id }}", name: paid, on_missing: {wait: 1h}}
  - name: seen
    from: orders
    match: {type: order.seen}
    raise_event: {instance_id: "order-{{ payload.id }}", name: seen}
  - name: cancel
    from: orders
    match: {type: order.cancelled}
    continue: true
    cancel: {instance_id: "order-{{ payload.id }}", reason: "{{ payload.reason }}", grace: 30s}
  - name: follow
    from: orders
    match: {type: order.cancelled}
    schedule: {orchestration: follow_up, instance_id: "follow-{{ payload.id }}"}
  - name: stock
    from: plain
    match: {payload.kind: stock}
    for_each: payload.lines
    signal_entity: {entity: stock_level, key: "{{ item }}", operation: add, input: index}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def loaded(project: Path) -> Loaded:
    return load([project / "bridge.yaml"], environ={})


def run(tests: str, *arguments: str) -> Result:
    Path("tests/rules.yaml").write_text(tests)
    result = CliRunner().invoke(root, ["test", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


PASSING = """
source: orders
tests:
  - name: a start
    message: {type: order.created, data: {id: "1", total: 5}}
    expect:
      outcome: executed
      route: start
      command: schedule
      engine: default
      orchestration: order_saga
      instance_id: order-1
      input: {id: "1", total: 5.0}
      delay: null
      on_existing: ignore
  - name: a large one
    message: {type: order.created, data: {id: "1", total: 1000}}
    expect: {routes: [large], input: {id: "1"}, delay: 60m}
  - name: two commands
    message: {type: order.cancelled, data: {id: "1", reason: late}}
    expect:
      routes: [cancel, follow]
      commands:
        - {route: cancel, command: cancel, instance_id: order-1, reason: late, grace: 30s, event: cancel}
        - {route: follow, orchestration: follow_up}
  - name: a failing condition
    message: {type: order.created, data: {id: "1"}}
    expect: {outcome: dead_lettered, dead_letter: expression_error, detail: no key "total"}
  - name: no CloudEvent
    message: {body: "{"}
    expect: {dead_letter: decode_error}
  - name: of a topic, as read
    message:
      {topic: orders-eu, partition: 3, offset: 9, timestamp: null, headers: {}, body:
        {specversion: "1.0", id: "1", source: /s, type: other}}
    expect: {outcome: ignored, route: eu}
  - name: one command for each item
    source: plain
    message: {body: {kind: stock, lines: [tea, cup]}}
    expect: {commands: [{entity: stock_level, key: tea, input: 0}, {key: cup, input: 1, operation: add}]}
  - name: no rule
    source: plain
    message: {body: {kind: other}}
    expect: {outcome: ignored, routes: [], commands: []}
"""


def test_decisions(project: Path) -> None:
    result = run(PASSING)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("8 passed in ")


def test_an_editor_accepts_them() -> None:
    validator = jsonschema_rs.validator_for(schema())
    for text in (PASSING, STEPS):
        validator.validate(yaml.safe_load(text))
    assert not validator.is_valid({"tests": [{"name": "a", "message": {}, "expect": {"rout": "x"}}]})


def test_differences_have_places(project: Path) -> None:
    result = run("""source: orders
tests:
  - name: a start
    message: {type: order.created, data: {id: "1", total: 5}}
    expect:
      route: large
      instance_id: order-2
      input: {id: 1, total: 5, more: [true]}
  - name: the reason
    message: {type: order.cancelled, data: {id: "1", reason: late}}
    expect: {commands: [{command: cancel, reason: early}]}
  - name: a dead letter
    message: {type: order.created, data: {id: "1"}}
    expect: {command: schedule}
""")
    assert result.exit_code == 1
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines[:7] == [
        "FAIL tests/rules.yaml:3 a start",
        'tests/rules.yaml:6:14 route: expected "large", found "start"',
        'tests/rules.yaml:7:20 instance_id: expected "order-2", found "order-1"',
        'tests/rules.yaml:8:19 input.id: expected 1, found "1"',
        "tests/rules.yaml:8:32 input.more: expected [true], found nothing",
        "large  no       when: payload.total >= vars.large is false",
        "start  MATCHED",
    ]
    assert 'tests/rules.yaml:11:51 commands[0].reason: expected "early", found "late"' in lines
    assert (
        'tests/rules.yaml:11:14 commands[1]: found "follow schedule follow_up follow-1", and nothing is expected'
        in lines
    )
    assert any(
        line.startswith("tests/rules.yaml:14:23 command: expected") and "expression_error" in line for line in lines
    )
    assert lines[-1].startswith("0 passed, 3 failed in ")


def test_json_and_choice(project: Path) -> None:
    document = json.loads(run(PASSING, "-k", "LARGE", "-o", "json").stdout)
    assert (document["ok"], document["passed"], document["failed"]) == (True, 1, 0)
    assert document["tests"][0]["name"] == "a large one"
    assert ", 7 other tests not run" in run(PASSING, "-k", "a large").stdout
    nothing = run(PASSING, "-k", "nowhere")
    assert (nothing.exit_code, nothing.stdout) == (2, "")


def test_junit(project: Path) -> None:
    failing = '  - {name: "b\\u0001<", message: {type: x}, expect: {dead_letter: "<&\\u0000"}}\n'
    assert run(PASSING + failing, "--junit", "out.xml").exit_code == 1
    document = ElementTree.parse("out.xml").getroot()
    assert (document.tag, document.get("tests"), document.get("failures")) == ("testsuites", "9", "1")
    (suite,) = document
    assert suite.get("name") == "tests/rules.yaml"
    last = suite[-1]
    assert (last.get("name"), last.get("line")) == ("b\ufffd<", "45")
    assert (last[0].text or "").startswith("tests/rules.yaml:45:")
    assert not list(suite[0])


STEPS = """
source: orders
tests:
  - name: states
    steps:
      - message: {type: order.paid, data: {id: "1"}}
        expect: {outcome: early, route: paid, instances: {order-1: {status: MISSING}}}
      - message: {type: order.created, id: a, data: {id: "1", total: 5}}
        expect: {outcome: executed, instances: {order-1: {status: RUNNING}}}
      - message: {type: order.created, id: a, data: {id: "1", total: 5}}
        expect: {outcome: duplicate}
      - message: {type: order.created, id: b, data: {id: "1", total: 5}}
        expect: {outcome: ignored}
      - finish: {instance_id: order-1, output: {done: true}}
        expect: {instances: {order-1: {status: COMPLETED, output: {done: true}}}}
      - message: {type: order.seen, data: {id: "1"}}
        expect: {dead_letter: instance_finished}
      - message: {type: order.seen, data: {id: "2"}}
        expect: {dead_letter: instance_not_found}
      - message: {type: order.created, data: {id: "3"}}
        expect: {dead_letter: expression_error, detail: total}
  - name: time
    steps:
      - message: {type: order.created, data: {id: "1", total: 2000}}
        expect: {instances: {order-1: {status: PENDING}}}
      - advance: 1h
      - expect: {instances: {order-1: {status: RUNNING}}}
      - raise_event: {instance_id: order-1, name: bridge.test.finish, data: 7}
        expect: {instances: {order-1: {output: 7}}}
  - name: entities
    steps:
      - source: plain
        message: {body: {kind: stock, lines: [tea]}}
        expect: {entities: {stock_level: {tea: {operation: add, input: 0}}}}
"""


def test_steps(project: Path) -> None:
    result = run(STEPS)
    assert result.exit_code == 0, result.stdout + result.stderr


def test_the_first_step_that_differs_ends_its_test(project: Path) -> None:
    result = run("""
source: orders
tests:
  - name: a
    steps:
      - message: {type: order.created, data: {id: "1", total: 5}}
        expect: {instances: {order-1: {status: COMPLETED, output: 1}, order-2: {output: 1}}}
      - expect: {instances: {order-1: {status: COMPLETED}}}
  - name: b
    steps: [{finish: {instance_id: none}}]
""")
    assert result.exit_code == 1
    assert 'tests/rules.yaml:7:48 order-1 status: expected "COMPLETED", found "RUNNING"' in result.stdout
    assert "order-1 output: expected 1, found nothing (order-1 is RUNNING" in result.stdout
    assert "order-2 status: expected" in result.stdout
    assert "tests/rules.yaml:8" not in result.stdout
    assert "tests/rules.yaml:10:13 step: expected" in result.stdout


def test_a_difference_names_what_is_known_and_in_one_order(project: Path) -> None:
    result = run("""
source: orders
tests:
  - name: no instance
    steps:
      - message: {type: order.seen, data: {id: "2"}}
        expect: {outcome: executed}
  - name: further members
    message: {type: order.created, data: {z: 1, id: "1", total: 5, b: 2, a: 3}}
    expect: {input: {id: "1", total: 5}}
""")
    assert 'expected "executed", found "dead_lettered" (instance_not_found)' in result.stdout
    found = [line.split()[1] for line in result.stdout.splitlines() if "nothing is expected" in line]
    assert found == ["input.a:", "input.b:", "input.z:"]


ONE = "{name: a, message: {body: 1}, expect: "
IGNORED = "expect: {outcome: ignored}}"


def test_a_quarantined_key(project: Path) -> None:
    limited = "topics: [orders, orders-eu], no_match: dead_letter"
    (project / "bridge.yaml").write_text(CONFIG.replace(limited, f"{limited}, quarantine: {{max_messages: 10}}"))
    result = run("""
source: orders
tests:
  - name: a
    steps:
      - message: {type: order.created, key: k, data: {id: a}}
        expect: {outcome: quarantined}
      - message: {type: order.created, key: k, data: {id: a, total: 5}}
        expect: {outcome: quarantined, instances: {order-a: {status: MISSING}}}
      - message: {type: order.created, key: l, data: {id: b, total: 5}}
        expect: {outcome: executed}
""")
    assert result.exit_code == 0, result.stdout


SAGAS = """
tests:
  - name: a declined payment releases the stock
    source: purchases
    steps:
      - message: {type: purchase.requested, data: {id: p-1, lines: [], total: 5}}
        expect: {saga: purchase, instance_id: purchase-p-1, instances: {purchase-p-1: {status: RUNNING}}}
      - answer: {target: stock, data: {status: reserved, id: s-1}}
      - answer: {target: payments, data: {status: declined}}
        expect:
          published:
            stock: [{type: stock.reserve}, {type: stock.release, data: {order: p-1}}]
            results: [{type: purchase.compensated}]
  - name: nobody answers
    source: purchases
    steps:
      - message: {type: purchase.requested, data: {id: p-1, lines: [], total: 5}}
      - answer: {target: payments, data: {status: authorised, id: a-1}}
      - advance: 2m
        expect: {published: {payments: [{type: payment.authorise}, {type: payment.void}]}}
  - name: the input of a saga
    source: purchases
    message: {type: purchase.requested, data: {id: p-1}}
    expect: {command: schedule, saga: purchase, input: {id: p-1}}
"""


def test_sagas(tmp_path: Path) -> None:
    file = tmp_path / "sagas.yaml"
    file.write_text(SAGAS)
    config = Path(__file__).parents[2] / "config" / "sagas.yaml"
    result = CliRunner().invoke(root, ["test", str(file), "-c", str(config)])
    assert result.exit_code == 0, result.stdout + result.stderr
    assert result.stdout.startswith("3 passed")


def test_an_action_that_fails(project: Path) -> None:
    result = run("source: orders\ntests:\n- {name: a, steps: [{finish: {instance_id: nowhere}}]}\n")
    assert (result.exit_code, "tests/rules.yaml:3:21 step: expected" in result.stdout) == (1, True)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty; a file of tests is a mapping"),
        ("- 1", "a file of tests is a mapping with the key `tests`"),
        ("a: [", "is not YAML"),
        ("tests: []", "tests: must have at least one entry"),
        ("tests:\n- {name: a}", "2:3 tests[0]: a test needs either `message` or `steps`"),
        ("tests:\n- {name: a, message: {body: 1}}", "a test with `message` needs `expect`"),
        (f"tests:\n- {ONE}{{outcom: ignored}}}}", "2:42 tests[0].expect.outcom: unknown key `outcom`; did you mean"),
        (f"tests:\n- {ONE}{{outcome: done}}}}", "must be one of executed"),
        (f"tests:\n- {ONE}{{instances: {{}}}}}}", "`instances` needs a running bridge"),
        (f"tests:\n- {ONE}{{outcome: ignored}}}}", "which source receives the message?"),
        (f"source: order\ntests:\n- {ONE}{{outcome: ignored}}}}", "1:9 source: there is no source `order`"),
        (f"source: orders\ntests:\n- {{name: a, message: {{data: 1}}, {IGNORED}", "a message has `type` and `data`"),
        (f"source: plain\ntests:\n- {{name: a, message: {{type: t}}, {IGNORED}", "reads json, not CloudEvents"),
        (f"source: orders\ntests:\n- {{name: a, message: {{type: t, key: 1}}, {IGNORED}", "key must be text"),
        (f"source: plain\ntests:\n- {{name: a, message: {{body: 1, b: 1}}, {IGNORED}", "unknown member 'b'"),
        ("tests:\n- {name: a, steps: [{advance: 5}]}", "is not a duration"),
        ("tests:\n- {name: a, steps: [{}]}", "a step needs one of"),
        ("tests:\n- {name: a, steps: [{advance: 5s, finish: {instance_id: a}}]}", "a step does one thing"),
        (f"source: plain\ntests:\n- {ONE}{{route: a}}}}\n- {ONE}{{route: a}}}}", "4:10 tests[1].name: the file has"),
        (
            "tests:\n- {name: a, steps: [{answer: {target: result, data: 1}}]}",
            "target: there is no target `result`; known: none",
        ),
        (
            "tests:\n- {name: a, steps: [{expect: {published: {nope: []}}}]}",
            "published.nope: there is no target `nope`",
        ),
        (f"tests:\n- {ONE}{{commands: [], route: a}}}}", "`commands` cannot be combined with `route`"),
    ],
)
def test_invalid_files(text: str, problem: str, project: Path) -> None:
    result = run(text)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("tests/rules.yaml:")
    assert problem in result.stderr


def test_no_tests_and_an_invalid_configuration(project: Path) -> None:
    assert "holds no *.yaml" in CliRunner().invoke(root, ["test"]).stderr
    missing = CliRunner().invoke(root, ["test", "nowhere.yaml"])
    assert (missing.exit_code, "cannot be read" in missing.stderr) == (2, True)
    (project / "bridge.yaml").write_text("routes: 1")
    assert run(PASSING).exit_code == 3


def test_all_problems_at_once(loaded: Loaded) -> None:
    Path("tests/a.yaml").write_text("tests: 1")
    Path("tests/b.yaml").write_text("tests:\n- {name: a, message: {}, expect: {outcome: x}}\n- {}\n")
    with pytest.raises(InvalidFixtures) as raised:
        read_fixtures([Path("tests")], loaded.config)
    assert [problem.file for problem in raised.value.problems] == ["tests/a.yaml", *["tests/b.yaml"] * 3]


def test_a_thousand_messages(loaded: Loaded) -> None:
    one = "- {name: n%d, message: {type: order.created, data: {id: '1', total: %d}}, expect: {instance_id: order-1}}\n"
    Path("tests/many.yaml").write_text("source: orders\ntests:\n" + "".join(one % (n, n) for n in range(1000)))
    began = time.process_time()
    results = list(FixtureRunner(loaded).run(read_fixtures([Path("tests")], loaded.config)))
    assert sum(result.passed for result in results) == 1000
    assert time.process_time() - began < 5
