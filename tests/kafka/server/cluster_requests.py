"""Request handlers for metadata, topics, record deletion and transactions."""

from __future__ import annotations

from tests.kafka.server import errors
from tests.kafka.server.state import NODE, State, Transaction
from tests.kafka.server.wire import Reader, Writer

TOPIC_RESOURCE = 2


def metadata(state: State, reader: Reader, writer: Writer, version: int) -> None:
    topics = reader.maybe_array(reader.text)
    if topics is None or (version == 0 and not topics):
        topics = list(state.topics)
    if version >= 3:
        writer.int32(0)

    def write_node(_: int) -> None:
        writer.int32(NODE).text(state.host).int32(state.port)
        if version >= 1:
            writer.text(None)

    def write_partition(number: int) -> None:
        writer.int16(0).int32(number).int32(NODE).array([NODE], writer.int32).array([NODE], writer.int32)
        if version >= 5:
            writer.int32(0)

    def write_topic(name: str) -> None:
        topic = state.topics.get(name)
        writer.int16(errors.NONE if topic else errors.UNKNOWN_TOPIC).text(name)
        if version >= 1:
            writer.int8(0)
        writer.array(range(len(topic.partitions)) if topic else (), write_partition)

    writer.array([NODE], write_node)
    if version >= 2:
        writer.text(state.cluster)
    if version >= 1:
        writer.int32(NODE)
    writer.array(topics, write_topic)


def create_topics(state: State, reader: Reader, writer: Writer, version: int) -> None:
    def wish() -> tuple[str, int, dict[str, str]]:
        name, count = reader.text(), reader.int32()
        reader.int16()
        reader.array(lambda: (reader.int32(), reader.array(reader.int32)))
        return name, count, dict(reader.array(lambda: (reader.text(), reader.text())))

    wanted = reader.array(wish)
    if version >= 2:
        writer.int32(0)

    def write(each: tuple[str, int, dict[str, str]]) -> None:
        writer.text(each[0]).int16(state.create_topic(*each))
        if version >= 1:
            writer.text(None)

    writer.array(wanted, write)


def delete_topics(state: State, reader: Reader, writer: Writer, version: int) -> None:
    names = reader.array(reader.text)
    if version >= 1:
        writer.int32(0)
    writer.array(names, lambda name: writer.text(name).int16(state.delete_topic(name)))


def create_partitions(state: State, reader: Reader, writer: Writer, _: int) -> None:
    def wish() -> tuple[str, int]:
        wanted = reader.text(), reader.int32()
        reader.maybe_array(lambda: reader.array(reader.int32))
        return wanted

    writer.int32(0)

    def write(wanted: tuple[str, int]) -> None:
        topic = state.topics.get(wanted[0])
        if topic is not None:
            topic.grow(wanted[1])
        writer.text(wanted[0]).int16(errors.NONE if topic else errors.UNKNOWN_TOPIC).text(None)

    writer.array(reader.array(wish), write)


def delete_records(state: State, reader: Reader, writer: Writer, _: int) -> None:
    asked = reader.by_topic(lambda: (reader.int32(), reader.int64()))
    for_topic = iter([topic for topic, wanted in asked for _ in wanted])
    writer.int32(0)

    def write(wanted: tuple[int, int]) -> None:
        partition = state.partition(next(for_topic), wanted[0])
        if partition is not None:
            partition.truncate(wanted[1])
        code = errors.NONE if partition else errors.UNKNOWN_TOPIC
        writer.int32(wanted[0]).int64(partition.start if partition else -1).int16(code)

    writer.by_topic(asked, write)


def init_producer(state: State, reader: Reader, writer: Writer, _: int) -> None:
    name = reader.maybe_text()
    if name is None:
        found = Transaction(next(state.producer_ids))
    elif name not in state.transactions:
        found = state.transactions[name] = Transaction(next(state.producer_ids))
    else:
        found = state.transactions[name]
        state.end(found, commit=False)
        found.epoch += 1
    writer.int32(0).int16(errors.NONE).int64(found.producer_id).int16(found.epoch)


def _check(state: State, reader: Reader) -> tuple[str, int]:
    name, producer_id, epoch = reader.text(), reader.int64(), reader.int16()
    found = state.transactions.get(name)
    if found is None or found.producer_id != producer_id:
        return name, errors.INVALID_PRODUCER_ID
    return name, errors.NONE if found.epoch == epoch else errors.INVALID_PRODUCER_EPOCH


def add_partitions(state: State, reader: Reader, writer: Writer, _: int) -> None:
    name, code = _check(state, reader)
    asked = reader.by_topic(reader.int32)
    if code == errors.NONE:
        state.transactions[name].partitions |= {(topic, number) for topic, numbers in asked for number in numbers}
    writer.int32(0).by_topic(asked, lambda number: writer.int32(number).int16(code))


def end_transaction(state: State, reader: Reader, writer: Writer, _: int) -> None:
    name, code = _check(state, reader)
    if code == errors.NONE:
        state.end(state.transactions[name], commit=bool(reader.int8()))
    writer.int32(0).int16(code)


def describe_configs(state: State, reader: Reader, writer: Writer, version: int) -> None:
    def wish() -> tuple[int, str]:
        kind, name = reader.int8(), reader.text()
        reader.maybe_array(reader.text)
        return kind, name

    wanted = reader.array(wish)
    writer.int32(0)

    def write(each: tuple[int, str]) -> None:
        kind, name = each
        topic = state.topics.get(name) if kind == TOPIC_RESOURCE else None
        writer.int16(errors.NONE if topic else errors.UNKNOWN_TOPIC).text(None).int8(kind).text(name)
        settings = {"cleanup.policy": "delete"} | (topic.settings if topic else {})
        writer.array(settings.items() if topic else (), write_entry)

    def write_entry(entry: tuple[str, str]) -> None:
        writer.text(entry[0]).text(entry[1]).int8(0).int8(0).int8(0)

    writer.array(wanted, write)
