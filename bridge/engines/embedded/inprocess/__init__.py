"""In-process gRPC channels: the SDK's client and worker call a sidecar servicer without sockets or serialisation.

Requests, responses and streamed messages are passed by reference. A servicer must therefore not keep a request that it
changes later, and must not return a message that it keeps, because a caller with a payload store rewrites the messages
that it receives.

A channel is bound to one servicer and one set of metadata (for example the task hub), because the SDK's `channel=`
argument bypasses the SDK's interceptors.
"""

from bridge.engines.embedded.inprocess.aio import AioChannel
from bridge.engines.embedded.inprocess.channel import InProcessChannel

__all__ = ["AioChannel", "InProcessChannel"]
