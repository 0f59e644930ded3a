"""Messages: those that are settled now, and the life of one: decision, commands, instances, publications, both ways."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bridge.app.page.visit import Page, Visit, address, place
from bridge.core.errors import BridgeError
from bridge.core.states import MessageState, Outcome
from bridge.core.words import plural
from bridge.ops.web import STREAMS

_SHOWN = 100
"""Most arrivals and publications of an instance that are shown."""


class PageLink(NamedTuple):
    """Link to another page."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class AnswerView:
    """End or present state of a message in words.

    text: what happened, without its subject.
    facts: names with values, and links where a page has more.
    next: pages on which a person acts.
    """

    outcome: str
    at: str | None
    text: str
    facts: Sequence[tuple[str, str | PageLink]]
    next: Sequence[PageLink]


@dataclass(frozen=True, slots=True)
class EventView:
    """Arrival at an instance, or its publication.

    way: `in`, `out`.
    message: its life; None for an event that no message brought.
    """

    at: str
    way: str
    what: str
    message: PageLink | None
    by: str
    is_wanted: bool


@dataclass(frozen=True, slots=True)
class InstanceView:
    """Instance on the way of a message, for the page.

    depth: of a child. events: the first ones; more: number of the others.
    """

    link: PageLink
    name: str
    status: str
    created_at: str
    depth: int
    events: Sequence[EventView]
    more: int = 0


def answers(trace: Mapping[str, Any]) -> list[AnswerView]:
    """Answers of a trace in words."""
    return [_answer(each) for each in trace["answers"]]


def _answer(answer: Mapping[str, Any]) -> AnswerView:
    facts: list[tuple[str, str | PageLink]] = []
    for title, name in (("Source", "source"), ("Route", "route"), ("Key", "key"), ("Attempt", "attempt")):
        if answer[name] is not None:
            facts.append((title, str(answer[name])))
    if answer["position"]:
        facts.append(("Position", PageLink(message_page(answer["position"]), short(answer["position"]))))
    if answer["instance_id"]:
        facts.append(("Instance", PageLink(place("instances", answer["instance_id"]), answer["instance_id"])))
    if answer["entity"]:
        facts.append(("Entity", _entity(answer["entity"])))
    if answer["duplicate_of"]:
        facts.append(("Duplicate of", PageLink(message_page(answer["duplicate_of"]), short(answer["duplicate_of"]))))
    if answer["topic"]:
        facts.append(("Target" if answer["outcome"] == "published" else "Dead letters in", answer["topic"]))
    if answer["config"]:
        facts.append(("Configuration", answer["config"]))
    for title, name in (("Next try", "next_try"), ("Until", "until")):
        if answer[name]:
            facts.append((title, answer[name]))
    return AnswerView(answer["outcome"], answer["at"], _text(answer), facts, list(_next(answer)))


def _entity(text: str) -> str | PageLink:
    name, at, key = text.lstrip("@").partition("@")
    return PageLink(place("entities", name, key), text) if at else text


def _text(answer: Mapping[str, Any]) -> str:
    why = ": ".join(filter(None, (answer["reason"], answer["detail"])))
    what = answer["what"] or "a command"
    match answer["outcome"]:
        case Outcome.EXECUTED:
            return f"The engine has accepted: {what}." + (f" {answer['detail']}" if answer["detail"] else "")
        case Outcome.DUPLICATE:
            return f"The engine had accepted it before: {what}."
        case MessageState.EARLY:
            return "It waits on the engine for the start of its instance."
        case MessageState.QUARANTINED:
            return f"It waits with its ordering key for a person. {why}"
        case "published":
            return "An instance published it." + (f" {answer['detail']}" if answer["detail"] else "")
        case "not_kept" | "not_processed":
            return why
        case _:
            return why


def _next(answer: Mapping[str, Any]) -> Iterator[PageLink]:
    """Pages with the next action for a message that needs a person."""
    match answer["outcome"]:
        case MessageState.EARLY:
            yield PageLink(address("/waiting", prefix=answer["instance_id"]), "Release or drop it")
        case MessageState.QUARANTINED:
            yield PageLink(address("/waiting", source=answer["source"], key=answer["key"]), "Release or drop its key")
        case MessageState.RETRYING | MessageState.QUEUED if answer["source"]:
            yield PageLink(address("/", source=answer["source"]), f"See source {answer['source']}")
        case Outcome.DEAD_LETTERED:
            # Dead letters know positions without their cluster
            origin = (answer["position"] or "").partition("/")[2]
            named = answer["message_id"] if answer["message_id"] not in (None, answer["position"]) else origin
            if named:
                yield PageLink(place("dead-letters", named), "Replay, edit or drop the dead letter")


def message_page(message: str) -> str:
    """Address of the life of a message."""
    return place("messages", message)


_CLUSTER = re.compile(r"[^/]+/(.+/[0-9]{1,10}@[0-9]{1,19})", re.DOTALL)


def short(id_: str) -> str:
    """Id without the identity of the cluster, which a message without an id of its own begins with."""
    found = _CLUSTER.fullmatch(id_)
    return id_ if found is None else found[1]


def instances(found: Sequence[Mapping[str, Any]], wanted: str, depth: int = 0) -> Iterator[InstanceView]:
    """Instances of a trace, each before its children. wanted: id of the message."""
    for one in found:
        events = sorted((*_arrivals(one, wanted), *_publications(one, wanted)), key=lambda each: each.at)
        link = PageLink(place("instances", one["instance_id"]), one["instance_id"])
        shown = events[:_SHOWN]
        yield InstanceView(
            link, one["name"], one["status"], one["created_at"], depth, shown, max(0, len(events) - len(shown))
        )
        yield from instances(one["children"], wanted, depth + 1)


def _arrivals(one: Mapping[str, Any], wanted: str) -> Iterator[EventView]:
    for each in one["arrivals"]:
        id_ = each["message_id"]
        by = f"route {each['route']}" if each["route"] else ""
        link = None if id_ is None else PageLink(message_page(id_), short(id_))
        position = each["position"] or ""
        is_wanted = wanted in (id_, position, position.partition("/")[2]) or (id_ or "").endswith(f"/{wanted}")
        yield EventView(each["at"], "in", each["what"], link, by, is_wanted)


def _publications(one: Mapping[str, Any], wanted: str) -> Iterator[EventView]:
    for each in one["publications"]:
        state = "" if each["state"] == "published" else f", {each['state']}"
        tries = f", {each['attempts']} attempts" if each["attempts"] > 1 else ""
        by = f"target {each['target']}{state}{tries}"
        yield EventView(
            each["at"], "out", each["type"], PageLink(message_page(each["id"]), each["id"]), by, each["id"] == wanted
        )


def mark(holds: bool | None) -> tuple[str, str]:
    """Tone of a condition's result, and the result as a word."""
    return {True: ("good", "holds"), False: ("bad", "does not hold"), None: ("warn", "failed")}[holds]


VERDICTS: Mapping[str, tuple[str, str]] = {
    "matched": ("good", "matched"),
    "equality failed": ("", "no match"),
    "when false": ("", "no match"),
    "when failed": ("bad", "condition failed"),
    "not considered": ("", "not considered: an earlier rule had decided"),
}
"""Tone and words of the verdicts of rules."""


@dataclass(frozen=True, slots=True)
class DecisionView:
    """Decision about a message. failure: why there is none; None if there is one."""

    explained: Sequence[Mapping[str, Any]] = ()
    failure: str | None = None


async def _decision(visit: Visit, wanted: str) -> DecisionView:
    try:
        return DecisionView(await visit.read("messages.explain", message=wanted, rules=visit.get("rules")))
    except (BridgeError, LookupError) as error:
        return DecisionView(failure=str(error))


async def _waiting(visit: Visit, wanted: str) -> list[PageLink]:
    """Pages with the messages that wait for an instance, or with an ordering key, of this name."""
    early = [each for each in await visit.read("early.list", prefix=wanted) if each["instance_id"] == wanted]
    quarantined = [each for each in await visit.read("quarantine.list") if each["key"] == wanted]
    found = []
    if early:
        waiting = plural(len(early), "message waits", "messages wait")
        found.append(PageLink(address("/waiting", prefix=wanted), f"{waiting} for the start of this instance"))
    if quarantined:
        waiting = plural(len(quarantined), "message waits", "messages wait")
        found.append(PageLink(address("/waiting", key=wanted), f"{waiting} with this ordering key"))
    return found


async def _read(visit: Visit) -> Mapping[str, Any]:
    wanted = visit.parts.get("message") or (visit.get("q") or "").strip()
    config = visit.loaded.config
    shared: dict[str, Any] = {
        "wanted": wanted,
        "sources": list(config.sources),
        "routes": [route.name for route in config.routes],
        "outcomes": [each.value for each in Outcome],
        "tap": tap_options(visit),
        "tap_stream": f"{STREAMS}tap",
    }
    if not wanted:
        return shared
    trace = await visit.read("messages.trace", message=wanted, search="true" if visit.get("search") else None)
    named = trace["behind"]["id"] if trace["behind"] else wanted
    started_by = set(trace["started_by"])
    above = list(trace["upstream"])
    return shared | {
        "trace": trace,
        "answers": answers(trace),
        "instances": list(instances(trace["instances"], named)),
        "published_by": list(instances([each for each in above if each["instance_id"] not in started_by], named)),
        "started_by": list(instances([each for each in above if each["instance_id"] in started_by], named)),
        "downstream": list(instances(trace["downstream"], named)),
        "decision": await _decision(visit, wanted),
        "waiting": [] if trace["answers"] else await _waiting(visit, wanted),
        "verdicts": VERDICTS,
        "base": f"{visit.loaded.base}/",
        "mark": mark,
        "short": short,
    }


def tap_options(visit: Visit) -> dict[str, Any]:
    """Options of the live view, from the address."""
    names = (("source", "sources"), ("route", "routes"), ("outcome", "outcomes"))
    return {option: [visit.query[name]] for name, option in names if visit.get(name)}


MESSAGES = Page("/messages", "messages.html", _read, "Messages")
ONE_MESSAGE = Page("/messages/{message}", "messages.html", _read)
