"""In-process gRPC channels: the SDK's client and worker call a sidecar servicer without sockets or serialisation.

Requests, responses and streamed messages are passed by reference. A servicer therefore must not keep a request that
it changes later, nor hand out a message that it keeps, as a caller with a payload store rewrites what it receives.

A channel is bound to one servicer and one set of metadata (the task hub, for one), because `channel=` bypasses the
interceptors of the SDK.
"""

from bridge.engines.inprocess.aio import AioChannel
from bridge.engines.inprocess.channel import Channel

__all__ = ["AioChannel", "Channel"]
