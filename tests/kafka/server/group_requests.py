"""Request handlers for consumer groups and their committed offsets."""

from __future__ import annotations

from tests.kafka.server import errors
from tests.kafka.server.group import Group, Member
from tests.kafka.server.group import State as GroupState
from tests.kafka.server.state import NODE, State
from tests.kafka.server.wire import Reader, Writer


def find_coordinator(state: State, reader: Reader, writer: Writer, version: int) -> None:
    reader.text()
    if version >= 1:
        reader.int8()
        writer.int32(0)
    writer.int16(errors.NONE)
    if version >= 1:
        writer.text(None)
    writer.int32(NODE).text(state.host).int32(state.port)


async def join_group(state: State, reader: Reader, writer: Writer, version: int) -> None:
    group = state.group(reader.text())
    session = reader.int32() / 1000
    rebalance = reader.int32() / 1000 if version >= 1 else session
    member_id = reader.text()
    instance = reader.maybe_text() if version >= 5 else None
    group.kind = reader.text()
    protocols = dict(reader.array(lambda: (reader.text(), reader.bytes())))
    code, member_id, member = group.admit(member_id, instance)
    if member is not None:
        member.session, member.rebalance = session, rebalance
        code = await group.join(member, protocols)
    if version >= 2:
        writer.int32(0)
    if code or member is None:
        writer.int16(code).int32(-1).text("").text("").text(member_id).int32(0)
        return
    members = list(group.members.values()) if member.id == group.leader and group.state is GroupState.COMPLETING else []
    writer.int16(code).int32(group.generation).text(group.protocol).text(group.leader).text(member.id)

    def write(each: Member) -> None:
        writer.text(each.id)
        if version >= 5:
            writer.text(each.instance)
        writer.bytes(each.protocols[group.protocol])

    writer.array(members, write)


async def sync_group(state: State, reader: Reader, writer: Writer, version: int) -> None:
    group, generation, member_id = state.group(reader.text()), reader.int32(), reader.text()
    if version >= 3:
        reader.maybe_text()
    assignments = dict(reader.array(lambda: (reader.text(), reader.bytes())))
    code = group.check(member_id, generation)
    member = group.members.get(member_id)
    if member is not None and not code:
        code = await group.sync(member, assignments)
    if version >= 1:
        writer.int32(0)
    writer.int16(code).bytes(member.assignment if member is not None and not code else b"")


def heartbeat(state: State, reader: Reader, writer: Writer, version: int) -> None:
    group, generation, member_id = state.group(reader.text()), reader.int32(), reader.text()
    code = group.check(member_id, generation)
    if not code:
        group.touch(group.members[member_id])
        code = errors.REBALANCE_IN_PROGRESS if group.state is GroupState.PREPARING else errors.NONE
    if version >= 1:
        writer.int32(0)
    writer.int16(code)


def leave_group(state: State, reader: Reader, writer: Writer, version: int) -> None:
    group = state.group(reader.text())
    leaving = [reader.text()] if version < 3 else reader.array(lambda: (reader.text(), reader.maybe_text())[0])
    codes: list[tuple[str, int]] = []
    for member_id in leaving:
        member = group.members.get(member_id)
        codes.append((member_id, errors.NONE if member else errors.UNKNOWN_MEMBER))
        if member is not None:
            group.remove(member)
    if version >= 1:
        writer.int32(0)
    writer.int16(errors.NONE if version >= 3 else codes[0][1])
    if version >= 3:
        writer.array(codes, lambda each: writer.text(each[0]).text(None).int16(each[1]))


def commit_offsets(state: State, reader: Reader, writer: Writer, version: int) -> None:
    group, generation, member_id = state.group(reader.text()), reader.int32(), reader.text()
    if version >= 7:
        reader.maybe_text()
    if version <= 4:
        reader.int64()
    code = _may_commit(group, generation, member_id)

    def wish() -> tuple[int, int, str | None]:
        number, offset = reader.int32(), reader.int64()
        if version >= 6:
            reader.int32()
        return number, offset, reader.maybe_text()

    results: list[tuple[str, list[tuple[int, int]]]] = []
    for topic, positions in reader.by_topic(wish):
        received: list[tuple[int, int]] = []
        for number, offset, text in positions:
            each = code or (errors.NONE if state.partition(topic, number) else errors.UNKNOWN_TOPIC)
            if not each:
                group.offsets[topic, number] = offset, text
            received.append((number, each))
        results.append((topic, received))
    if version >= 3:
        writer.int32(0)
    writer.by_topic(results, lambda each: writer.int32(each[0]).int16(each[1]))


def _may_commit(group: Group, generation: int, member_id: str) -> int:
    if generation < 0 and not group.members:
        return errors.NONE
    code = group.check(member_id, generation)
    if not code:
        group.touch(group.members[member_id])
        code = errors.REBALANCE_IN_PROGRESS if group.state is GroupState.COMPLETING else errors.NONE
    return code


def fetch_offsets(state: State, reader: Reader, writer: Writer, version: int) -> None:
    group = state.group(reader.text())
    asked = reader.maybe_array(lambda: (reader.text(), reader.array(reader.int32)))
    if asked is None:
        topics = {topic for topic, _ in group.offsets}
        asked = [(topic, [number for name, number in group.offsets if name == topic]) for topic in topics]
    if group.loading and version >= 2:
        # A real coordinator answers the same way: the error at the top level, and no topics
        if version >= 3:
            writer.int32(0)
        writer.by_topic([], lambda each: None)
        writer.int16(errors.COORDINATOR_LOADING)
        return
    for_topic = iter([topic for topic, numbers in asked for _ in numbers])
    if version >= 3:
        writer.int32(0)

    def write(number: int) -> None:
        offset, text = group.offsets.get((next(for_topic), number), (-1, ""))
        writer.int32(number).int64(offset)
        if version >= 5:
            writer.int32(-1)
        writer.text(text).int16(errors.NONE)

    writer.by_topic(asked, write)
    if version >= 2:
        writer.int16(errors.NONE)


def list_groups(state: State, _: Reader, writer: Writer, version: int) -> None:
    if version >= 1:
        writer.int32(0)
    writer.int16(errors.NONE).array(state.groups.items(), lambda each: writer.text(each[0]).text(each[1].kind))


def describe_groups(state: State, reader: Reader, writer: Writer, version: int) -> None:
    names = reader.array(reader.text)
    if version >= 3:
        reader.int8()
    if version >= 1:
        writer.int32(0)

    def write(name: str) -> None:
        group = state.groups.get(name) or Group(state.loop)

        def write_member(member: Member) -> None:
            writer.text(member.id).text("test-client").text("/127.0.0.1")
            writer.bytes(member.protocols.get(group.protocol, b"")).bytes(member.assignment)

        known = "Dead" if name not in state.groups else group.state.value
        writer.int16(errors.NONE).text(name).text(known).text(group.kind).text(group.protocol)
        writer.array(group.members.values(), write_member)
        if version >= 3:
            writer.int32(-(2**31))

    writer.array(names, write)


def delete_groups(state: State, reader: Reader, writer: Writer, _: int) -> None:
    names = reader.array(reader.text)
    for name in names:
        state.groups.pop(name, None)
    writer.int32(0).array(names, lambda name: writer.text(name).int16(errors.NONE))
