"""Typed errors. Every message names the value, the rule it broke and the remedy.

Never put a secret (key, seed, share, mask, an update) into ``value``: errors are printed and logged.
"""

from __future__ import annotations

from typing import Any, TypeVar


class FedprivError(Exception):
    """The base of every error that fedpriv raises on purpose.

    Args:
        rule: what must hold, as a sentence.
        value: what was found instead; shown with ``repr``. Leave it out where it would reveal a secret.
        remedy: what to do about it, as a sentence.
    """

    def __init__(self, rule: str, *, remedy: str, value: object = None) -> None:
        self.rule = rule
        self.value = value
        self.remedy = remedy
        found = "" if value is None else f" Got {value!r}."
        super().__init__(f"{rule}{found} {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        kept = {name: value for name, value in vars(self).items() if name in ("__notes__", "ledger")}
        return (_rebuild, (type(self), self.rule, self.value, self.remedy), kept or None)


def _rebuild(kind: type[FedprivError], rule: str, value: object, remedy: str) -> FedprivError:
    return kind(rule, value=value, remedy=remedy)


E = TypeVar("E", bound=BaseException)


def without_frames(error: E) -> E:
    """The error, fit to be kept: the variables of the frames that it went through hold keys, seeds and vectors.

    The errors that caused it stay, without their frames as well.
    """
    links: list[BaseException] = [error]
    for link in links:
        link.__traceback__ = None
        links += [near for near in (link.__cause__, link.__context__) if near is not None and near not in links]
    return error


class ConfigurationError(FedprivError, ValueError):
    """A single argument or description is wrong by itself."""


class PlanError(ConfigurationError):
    """The parts of a plan do not go together; found before the first round."""


class DataError(FedprivError, ValueError):
    """A data set or a federation is not usable as given."""


class DataUnavailable(DataError):
    """A file of a data set is missing, damaged or cannot be downloaded."""


class EncodingError(FedprivError, ValueError):
    """A vector cannot be encoded."""


class NonFiniteInput(EncodingError):
    """NaN or infinity where a finite number is needed."""


class EncodingOverflow(EncodingError):
    """A value or a possible sum of values does not fit into its integers."""


class TrainingFailed(FedprivError, RuntimeError):
    """A client's training raised; says which client, with the cause chained."""


class WorkerLost(FedprivError, RuntimeError):
    """A worker process ended before its work was done."""


class CheckpointError(FedprivError, RuntimeError):
    """A checkpoint is damaged or of another run, or a run's state cannot be written into one."""


class PrivacyError(FedprivError, ValueError):
    """A privacy statement that cannot be made."""


class UnsupportedAccounting(PrivacyError):
    """The accountant has no theorem for this mechanism, sampling or adjacency."""


class BudgetUnreachable(PrivacyError):
    """No noise level meets the budget against its observer."""


class RoundAborted(FedprivError, RuntimeError):
    """A round ended without a sum. Nothing was released; studies record it and go on."""

    ledger: Any = None
    """Where it ended a run: the run's :class:`fedpriv.Ledger`, the aborted attempt included."""


class CohortTooSmall(RoundAborted):
    """Fewer participants than the protocol's minimum."""


class TooFewSurvivors(RoundAborted):
    """Fewer clients survived than the threshold needs."""


class ProtocolError(RoundAborted):
    """A message or a party broke the protocol; the honest party refuses to go on."""


class MalformedMessage(ProtocolError):
    """Bytes that no honest party would send."""


class UnexpectedMessage(ProtocolError):
    """A duplicate, a replay, a wrong stage, a wrong sender, a second input."""


class ContextMismatch(ProtocolError):
    """Two parties do not speak of the same round, roster, model or configuration."""


class AuthenticationFailed(ProtocolError):
    """A ciphertext or signature does not verify: a flipped bit or a wrong key."""


class InvalidShare(ProtocolError):
    """Shares do not reconstruct the secret that was committed to."""


class DecryptionFailed(ProtocolError):
    """A homomorphic decryption is not the sum that was encrypted; never released, never retried."""
