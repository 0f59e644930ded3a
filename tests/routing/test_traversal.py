import os
import subprocess
import sys

import pytest
from cel_expr_python import cel

from bridge.core.errors import ExpressionError
from bridge.routing.cel.map_order import in_order
from tests.routing.test_expression import compiled, refused, scope, value

LETTERS = {character * 3: at for at, character in enumerate("kbxaqzmcpfydlw")}
SORTED = sorted(LETTERS)
DATA = {"letters": LETTERS, "a-b": LETTERS, "xs": [3, 1, 2], "deep": [{"m": LETTERS}], "none": None, "n": 5}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("payload.letters.map(k, k)", SORTED),
        ("payload.letters.map(k, payload.letters[k] > 3, k)", [key for key in SORTED if LETTERS[key] > 3]),
        ("payload.letters.filter(k, k != 'aaa')", SORTED[1:]),
        ("payload['letters'].map(k, payload.letters[k])", [LETTERS[key] for key in SORTED]),
        ("payload.?letters.orValue({}).filter(k, true).map(k, k)", SORTED),
        ("payload[?'letters'].orValue({}).map(k, k)", SORTED),
        ("payload.`a-b`.map(k, k)", SORTED),
        (".payload.letters.map(k, k)", SORTED),
        ("payload.deep[0].m.map(k, k)", SORTED),
        ("payload.deep.map(d, d.m.map(k, k))", [SORTED]),
        ("(true ? payload.letters : payload.none).map(k, k)", SORTED),
        ("true?payload.letters.map(k, k):[]", SORTED),
        ("'aaa' in payload.letters.map(k, k) ? payload . letters // all of them\n . map(k, k) : []", SORTED),
        ("'aaa' in [payload.letters][0].map(k, k)", True),
        ("3 in [1, 2].map(x, x + 1)", True),
        ("cel.bind(range_, payload.letters, range_.map(k, range_[k]))", [LETTERS[key] for key in SORTED]),
        ("{9: 'a', 10: 'b', 'x': 'c', true: 'd'}.map(k, string(k))", ["true", "9", "10", "x"]),
        ("payload.letters.map(payload, payload)", SORTED),
        ("payload.xs.map(x, x * 2).filter(x, x > 2)", [6, 4]),
        ("'.map(' + payload.xs.map(x, string(x)).join('.filter(')", ".map(3.filter(1.filter(2"),
        ("{}.map(k, k)", []),
    ],
)
def test_a_map_is_walked_by_its_sorted_keys_and_a_list_as_it_is(text: str, wanted: object) -> None:
    assert value(text, DATA) == wanted


def test_the_order_is_the_same_in_every_process() -> None:
    program = """if True:
        from tests.routing.test_expression import value
        from tests.routing.test_traversal import DATA
        print(value("payload.letters.map(k, k)", DATA), value("{5: 1, 3: 1, 4: 1, 1: 1}.filter(k, true)"))
    """
    command = [sys.executable, "-c", program]
    seeds = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2")]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=each) for each in seeds]
    assert {run.communicate()[0] for run in runs} == {f"{SORTED} [1, 3, 4, 5]\n"}


def test_templates_are_in_order_too() -> None:
    assert compiled("payload.letters.map(k, k).join('-')", "text").text(scope(DATA)) == "-".join(SORTED)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("payload.none.map(x, x)", "neither a list nor a map"),
        ("payload.n.filter(x, x)", "neither a list nor a map"),
        ("payload.absent.map(x, x)", 'no key "absent"'),
        ("payload.xs.map(x, x.y)", "not a map"),
    ],
)
def test_what_fails_fails_as_it_did(text: str, said: str) -> None:
    with pytest.raises(ExpressionError, match=said) as error:
        value(text, DATA)
    assert f"in `{text}`" in str(error.value)
    assert "range_" not in str(error.value).removesuffix(f"`{text}`")


@pytest.mark.parametrize(
    "text", ["payload.xs.size()", "map", "payload.map", "event.filter.map", "'a.map(b, c)'", "a.map"]
)
def test_other_expressions_are_left_alone(text: str) -> None:
    assert in_order(text) == text


def test_a_long_chain_is_no_deeper() -> None:
    assert value("payload.letters" + ".map(x, x)" * 20, DATA) == SORTED


def test_what_grows_too_deep_is_refused_when_it_is_compiled() -> None:
    nested = "payload.xs"
    for _ in range(9):
        nested = f"[{nested}.map(x, x)][0]"
    cel.NewEnv(variables={"payload": cel.Type.DYN}).compile(nested)
    assert "nested too deep" in refused(nested)
