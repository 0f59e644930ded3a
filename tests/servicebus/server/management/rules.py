"""Operations on the rules of a subscription."""

from __future__ import annotations

from typing import Any

from tests.servicebus.server.amqp import encoder
from tests.servicebus.server.amqp.encoder import NULL, mapping, sequence, string
from tests.servicebus.server.entities.filters import CorrelationFilter, FalseFilter, Filter, Rule, SqlFilter, TrueFilter
from tests.servicebus.server.entities.queue import Queue
from tests.servicebus.server.entities.topic import Subscription
from tests.servicebus.server.errors import Refusal, not_allowed, refusal
from tests.servicebus.server.management.body import NO_CONTENT, OK, Answer, Body

# The service gives filters one zero fewer than rules and actions
RULE, NO_ACTION = 0x137_0000_0004, 0x137_0000_0005
SQL_FILTER, TRUE_FILTER, FALSE_FILTER, CORRELATION_FILTER = range(0x13_7000_0006, 0x13_7000_000A)
_SYSTEM = {
    "correlation-id": "CorrelationId",
    "message-id": "MessageId",
    "to": "To",
    "reply-to": "ReplyTo",
    "label": "Label",
    "session-id": "SessionId",
    "reply-to-session-id": "ReplyToSessionId",
    "content-type": "ContentType",
}
"""Fields of a correlation filter in wire order, by the names of the filter language."""


def add(queue: Queue, body: Body) -> Answer:
    subscription, name = _subscription(queue), body.one("rule-name", str)
    if name in subscription.rules:
        raise refusal("amqp:entity-already-exists", f"The rule '{name}' exists already.")
    subscription.rules[name] = Rule(name, _filter(Body(body.one("rule-description", dict))))
    return OK, mapping([])


def remove(queue: Queue, body: Body) -> Answer:
    subscription, name = _subscription(queue), body.one("rule-name", str)
    if subscription.rules.pop(name, None) is None:
        raise refusal("amqp:not-found", f"The rule '{name}' could not be found.")
    return OK, mapping([])


def enumerate_rules(queue: Queue, body: Body) -> Answer:
    skip, top = body.maybe("skip", int) or 0, body.maybe("top", int) or 100
    rules = list(_subscription(queue).rules.values())[skip : skip + top]
    if not rules:
        return NO_CONTENT, mapping([])
    rows = [mapping([(string("rule-description"), _describe(rule))]) for rule in rules]
    return OK, mapping([(string("rules"), sequence(rows))])


def _subscription(queue: Queue) -> Subscription:
    if not isinstance(queue, Subscription):
        raise not_allowed("Rules belong to subscriptions.")
    return queue


def _filter(description: Body) -> Filter:
    sql, correlation = description.maybe("sql-filter", dict), description.maybe("correlation-filter", dict)
    if sql is not None:
        try:
            return SqlFilter(Body(sql).one("expression", str))
        except ValueError as problem:
            raise Refusal("com.microsoft:argument-error", str(problem)) from None
    if correlation is not None:
        system = {_SYSTEM[key]: value for key, value in correlation.items() if key in _SYSTEM and value is not None}
        return CorrelationFilter(system, dict(correlation.get("properties") or {}))
    return TrueFilter()


def _describe(rule: Rule) -> bytes:
    action = encoder.described(NO_ACTION, encoder.EMPTY_LIST)
    return encoder.described(RULE, sequence([_describe_filter(rule.filter), action, string(rule.name)]))


def _describe_filter(filter_: Filter) -> bytes:
    if isinstance(filter_, SqlFilter):
        return encoder.described(SQL_FILTER, sequence([string(filter_.expression), encoder.int32(20)]))
    if isinstance(filter_, CorrelationFilter):
        system = [string(filter_.system.get(name)) for name in _SYSTEM.values()]
        own = mapping([(string(name), _value(value)) for name, value in filter_.properties.items()])
        return encoder.described(CORRELATION_FILTER, sequence([*system, own]))
    code = FALSE_FILTER if isinstance(filter_, FalseFilter) else TRUE_FILTER
    return encoder.described(code, encoder.EMPTY_LIST)


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return encoder.boolean(value)
    if isinstance(value, int):
        return encoder.int64(value)
    return string(str(value)) if value is not None else NULL
