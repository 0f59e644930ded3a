"""Translation of aiokafka errors into errors of the bridge. No other module translates them."""

from __future__ import annotations

import ssl
from enum import Enum

from aiokafka import errors

from bridge.core.errors import BridgeError, BrokerUnavailable, PartitionRevoked, PublishFailed


class Meaning(Enum):
    """Meaning of an aiokafka error for the caller.

    AWAY: the fault may pass; retry. DENIED: a person has to act; retry meanwhile. REFUSED: the cluster will never
    accept this message. REVOKED: another member owns the partition. BUG: the bridge used the client wrongly; the error
    must stay visible.
    """

    AWAY = 1
    DENIED = 2
    REFUSED = 3
    REVOKED = 4
    BUG = 5


_CLASSES: dict[Meaning, tuple[type[BaseException], ...]] = {
    Meaning.AWAY: (
        errors.KafkaError, errors.NoBrokersAvailable, errors.NodeNotReadyError, errors.KafkaProtocolError,
        errors.CorrelationIdError, errors.Cancelled, errors.TooManyInFlightRequests, errors.StaleMetadata,
        errors.MetadataEmptyBrokerList, errors.KafkaUnavailableError, errors.KafkaTimeoutError,
        errors.KafkaConnectionError, errors.QuotaViolationError, errors.ConsumerStoppedError,
        errors.NoOffsetForPartitionError, errors.ProducerClosed, errors.ProducerFenced, errors.BrokerResponseError,
        errors.UnknownError, errors.OffsetOutOfRangeError, errors.CorruptRecordException,
        errors.UnknownTopicOrPartitionError, errors.LeaderNotAvailableError, errors.NotLeaderForPartitionError,
        errors.RequestTimedOutError, errors.BrokerNotAvailableError, errors.ReplicaNotAvailableError,
        errors.StaleControllerEpochError, errors.StaleLeaderEpochCodeError, errors.GroupLoadInProgressError,
        errors.GroupCoordinatorNotAvailableError, errors.NotCoordinatorForGroupError, errors.NotEnoughReplicasError,
        errors.NotEnoughReplicasAfterAppendError, errors.NotControllerError, errors.OutOfOrderSequenceNumber,
        errors.DuplicateSequenceNumber, errors.InvalidProducerEpoch, errors.InvalidTxnState,
        errors.InvalidProducerIdMapping, errors.ConcurrentTransactions, errors.TransactionCoordinatorFenced,
        errors.OperationNotAttempted, errors.KafkaStorageError, errors.LogDirNotFound, errors.UnknownProducerId,
        errors.ReassignmentInProgress, errors.FetchSessionIdNotFound, errors.InvalidFetchSessionEpoch,
        errors.ListenerNotFound, errors.MemberIdRequired, errors.OffsetMetadataTooLargeError,
        errors.InvalidCommitOffsetSizeError, errors.NonEmptyGroup, errors.GroupIdNotFound,
    ),
    Meaning.DENIED: (
        errors.AuthenticationMethodNotSupported, errors.AuthenticationFailedError, errors.SaslAuthenticationFailed,
        errors.UnsupportedSaslMechanismError, errors.IllegalSaslStateError, errors.TopicAuthorizationFailedError,
        errors.GroupAuthorizationFailedError, errors.ClusterAuthorizationFailedError, errors.SecurityDisabled,
        errors.TransactionalIdAuthorizationFailed, errors.DelegationTokenAuthDisabled, errors.DelegationTokenNotFound,
        errors.DelegationTokenOwnerMismatch, errors.DelegationTokenRequestNotAllowed,
        errors.DelegationTokenAuthorizationFailed, errors.DelegationTokenExpired, errors.InvalidPrincipalType,
        errors.UnrecognizedBrokerVersion, errors.IncompatibleBrokerVersion, errors.UnsupportedVersionError,
        errors.KafkaConfigurationError, errors.InconsistentGroupProtocolError, errors.InvalidGroupIdError,
        errors.InvalidSessionTimeoutError, errors.UnsupportedCodecError, errors.InvalidConfigurationError,
        errors.InvalidReplicationFactorError, errors.InvalidReplicationAssignmentError,
        errors.InvalidPartitionsError, errors.TopicAlreadyExistsError, errors.InvalidFetchRequestError,
    ),
    Meaning.REFUSED: (
        errors.MessageSizeTooLargeError, errors.RecordTooLargeError, errors.RecordListTooLargeError,
        errors.InvalidTopicError, errors.InvalidTimestampError, errors.UnsupportedForMessageFormatError,
        errors.PolicyViolationError, errors.InvalidRequestError, errors.InvalidRequiredAcksError,
        errors.InvalidTransactionTimeout,
    ),
    Meaning.REVOKED: (
        errors.CommitFailedError, errors.IllegalGenerationError, errors.UnknownMemberIdError,
        errors.RebalanceInProgressError, errors.IllegalStateError,
    ),
    Meaning.BUG: (errors.IllegalArgumentError, errors.IllegalOperation, errors.NoError),
}  # fmt: skip
MEANING_OF = {kind: meaning for meaning, kinds in _CLASSES.items() for kind in kinds}
"""Meaning of each class of errors; an unknown class has that of its nearest base class."""

TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordTooLargeError, errors.RecordListTooLargeError)
"""Errors of a message that exceeds the topic's limit or this producer's limit."""


def translate(error: BaseException, what: str) -> BridgeError | None:
    """Translate a foreign error into an error of the bridge; None for a bug, which must stay visible as itself.

    what: attempted operation, beginning with the broker's name.
    """
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(f"{what}: the broker did not answer in time")
    if isinstance(error, OSError):
        return BrokerUnavailable(f"{what}: {_explain(error)}")
    for kind in type(error).__mro__:
        found = MEANING_OF.get(kind)
        if found is None:
            continue
        text = f"{what}: {_explain(error)}"
        match found:
            case Meaning.AWAY | Meaning.DENIED:
                return BrokerUnavailable(text)
            case Meaning.REFUSED:
                return PublishFailed(text)
            case Meaning.REVOKED:
                return PartitionRevoked(text)
            case Meaning.BUG:
                return None
    return None


def _explain(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate is not trusted ({error.verify_message}); "
            "set `tls.ca` to the authority that signed it, or check the host name"
        )
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None) or error
        return f"TLS failed ({reason}); check that the port speaks TLS and the client certificate"
    if isinstance(error, errors.SaslAuthenticationFailed | errors.AuthenticationFailedError):
        return "the server refused the credentials; check `sasl.username` and `sasl.password`, or the token"
    if isinstance(error, errors.UnsupportedSaslMechanismError | errors.IllegalSaslStateError):
        return "the server does not offer this SASL mechanism; check `sasl.mechanism` and the port"
    if isinstance(error, errors.TopicAuthorizationFailedError):
        return "access to the topic is denied; give this principal the rights to describe, read and write it"
    if isinstance(error, errors.GroupAuthorizationFailedError):
        return "access to the consumer group is denied; give this principal the right to read it"
    if isinstance(error, errors.UnknownTopicOrPartitionError):
        return "the topic does not exist; create it, or set `create_topics: true`"
    if isinstance(error, TOO_LARGE):
        return "the message is larger than the topic or `max_request` allows"
    text = str(error) if not isinstance(error, errors.BrokerResponseError) else ""
    name = type(error).__name__
    return f"{name}: {text[:300]}" if text and text != name else f"{name}"
