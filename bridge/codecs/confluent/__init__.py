"""Avro and Protobuf in the wire format of Confluent, with a schema registry. Needs the extra `schemas`."""

from bridge.codecs.confluent.codec import RegistryCodec
from bridge.codecs.confluent.format import AvroFormat, Format, ProtobufFormat
from bridge.codecs.confluent.registry import Registry
from bridge.codecs.confluent.writing import Writing

__all__ = ["AvroFormat", "Format", "ProtobufFormat", "Registry", "RegistryCodec", "Writing"]
