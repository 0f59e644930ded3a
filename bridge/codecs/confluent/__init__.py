"""Avro and Protobuf in the wire format of Confluent, with a schema registry. Needs the extra `schemas`."""

from bridge.codecs.confluent.codec import RegistryCodec
from bridge.codecs.confluent.format import AVRO, PROTOBUF, SchemaFormat
from bridge.codecs.confluent.registry import Registry
from bridge.codecs.confluent.schema_choice import SchemaChooser

__all__ = ["AVRO", "PROTOBUF", "Registry", "RegistryCodec", "SchemaChooser", "SchemaFormat"]
