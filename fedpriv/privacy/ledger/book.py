"""The append-only record of every release, and the ε it amounts to, per observer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from fedpriv.errors import ConfigurationError, PrivacyError, UnsupportedAccounting
from fedpriv.privacy.budget import Budget, check_delta
from fedpriv.privacy.ledger import accounting, files
from fedpriv.privacy.ledger.accounting import Accountant, Conversion
from fedpriv.privacy.ledger.composition import Composition
from fedpriv.privacy.ledger.event import LedgerEvent
from fedpriv.privacy.ledger.exposed import Exposure, spoilt
from fedpriv.privacy.ledger.exposure import exposure
from fedpriv.privacy.ledger.rows import COLUMNS, row
from fedpriv.privacy.ledger.statement import Statement, format_epsilon
from fedpriv.privacy.mechanism import Adjacency, Unit
from fedpriv.privacy.numbers import is_real
from fedpriv.threat import AUTHORITY, Coalition, Observer, ThreatModel, client, parties_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Ledger", "LedgerEvent"]

_SHOWN = {
    "round": "round",
    "unit": "unit",
    "trust": "trust",
    "planned_noise_multiplier": "σ planned",
    "noise_multiplier": "σ achieved",
    "words": "what happened",
}
"""Columns of the HTML table, and their heads."""


class Ledger:
    """What was released, to be read by any observer's eyes. Events are appended, never changed.

    There is no "the ε": every figure is against an observer, for a unit, under an adjacency. A client's releases
    compose; the worst-placed client is reported. ε is an upper bound.

    A ledger holds what every round released, per client, and where clients train by DP-SGD what each participation
    amounts to, per record. The two units are stated apart and never composed; per record neighbours are federations of
    which one has a single record more, at one client, and every claim rests on that client's own noise.

    Args:
        threat: the resolved model: who sees what, broadcasts and releases included.
        population: clients of the federation.
        adjacency: which federations are neighbours, per client; every event per client must agree.
        records: the fewest records that a client holds, to say whether δ means anything per record; None: not known.
            It is private: a ledger that leaves the simulator takes a public bound from below.

    Guarantees: an observer who sees the cohort gets no amplification, and each client is charged for the rounds it
        really took part in; one who does not gets amplification where a theorem gives it. Noise added after the sum
        does not count against those who see the sum. Of noise in clients' shares only those count that the observer
        does not know, as many as really came; against one who sees updates, the client's own. It is charged in full in
        every round with a cohort, aborted ones included.
    Assumes: cohorts are drawn, clients drop out, and rounds and runs end early, independently of clients' data; where
        amplification is counted on, the seed that drew the cohorts is secret, and rounds that ended without a release
        are recorded as well; the threat model is true; dp-accounting is right.
    Does not hide: what is not an event. Metrics and tuning that read clients' data are releases of their own, and so is
        a run that ends because an update was not finite. Per record: which clients there are, and a client's records
        from itself.
    Reference: Abadi et al. 2016; Mironov 2017; Koskela, Jälkö and Honkela 2020; Balle and Wang 2018; Kairouz, Liu and
        Steinke 2021; Agarwal, Kairouz and Liu 2021.
    """

    def __init__(
        self,
        *,
        threat: ThreatModel,
        population: int,
        adjacency: Adjacency = "zero-out",
        events: Iterable[LedgerEvent] = (),
        records: int | None = None,
    ) -> None:
        if adjacency not in ("zero-out", "add-remove", "replace-one"):
            raise ConfigurationError(
                'adjacency is "zero-out", "add-remove" or "replace-one".', value=adjacency, remedy='Use "zero-out".'
            )
        if population < 1:
            raise ConfigurationError(
                "A population has at least one client.", value=population, remedy="Give the federation's client count."
            )
        if records is not None and records < 1:
            raise ConfigurationError(
                "A client holds at least one record.", value=records, remedy="Give the smallest client's, or None."
            )
        self.threat = threat
        self.population = population
        self.records = records
        self.adjacency: Adjacency = adjacency
        self._events: list[LedgerEvent] = []
        for event in events:
            self.append(event)

    @property
    def events(self) -> tuple[LedgerEvent, ...]:
        """Every event, in the order of appending."""
        return tuple(self._events)

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units of its events, ``"client"`` first; ``("client",)`` while there is none."""
        return tuple(sorted({event.unit for event in self._events})) or ("client",)

    @property
    def rounds(self) -> int:
        """How many releases there were; rounds that ended without one do not count."""
        return sum(event.count for event in self._events if event.unit == "client" and event.contributors)

    def append(self, event: LedgerEvent) -> None:
        """Record a release.

        Raises:
            PrivacyError: its adjacency is not the ledger's; an event per record that is not one client's, under
                add-remove.
            ConfigurationError: a client outside the population.
        """
        if event.unit == "record":
            _check_records_of_one_client(event)
        elif event.adjacency != self.adjacency:
            raise PrivacyError(
                f"Every event per client of this ledger is under {self.adjacency} adjacency.",
                value=event.adjacency,
                remedy="Keep one ledger for each adjacency: their ε do not compose.",
            )
        if event.cohort and not 0 <= min(event.cohort) <= max(event.cohort) < self.population:
            raise ConfigurationError(
                f"A cohort's clients are 0 … {self.population - 1}.",
                value=(min(event.cohort), max(event.cohort)),
                remedy="Give the ledger the federation's population.",
            )
        self._events.append(event)

    def statement(
        self,
        delta: float,
        *,
        observer: Observer,
        unit: Unit = "client",
        accountant: Accountant | None = None,
        conversion: Conversion = "improved",
        beside: bool = True,
    ) -> Statement:
        """The ε at δ against an observer, with everything that qualifies it.

        Args:
            delta: in (0, 1); at or above one over the number of units the statement says that it means little.
            observer: ``"server"``, ``"public"``, ``"participant"``, ``"authority"`` or a Coalition.
            unit: ``"client"``, or ``"record"`` where clients train by DP-SGD.
            accountant: None takes PLD where it applies, else RDP, or PLD without amplification where that is less.
            conversion: ``"classic"`` reproduces papers before about 2020; for RDP only.
            beside: also compute ε by RDP.

        Raises:
            UnsupportedAccounting: an event without a theorem; per record, a ledger without events per record.
            ConfigurationError: an unknown observer, unit, accountant or conversion; δ out of range.
        """
        if not (is_real(delta) and 0.0 < delta < 1.0):
            raise ConfigurationError("δ is in (0, 1).", value=delta, remedy="Give less than one over the population.")
        found = self._exposure(observer, unit, accountant, conversion)
        reason, amplified = found.reason, found.amplified
        adjacency = self._adjacency(unit)
        chosen: Accountant = accountant or "pld"
        epsilon, rdp_epsilon, participations = math.inf, None, None
        if found.compositions is not None:

            def spent(composition: Composition, by: Accountant) -> float:
                return accounting.epsilon(composition, delta, adjacency, by, conversion)

            figures = [
                (spent(c, accountant), accountant)
                if accountant
                else accounting.headline_epsilon(c, delta, adjacency, conversion)
                for c in found.compositions
            ]
            index = max(range(len(figures)), key=lambda i: figures[i][0])
            worst, (epsilon, chosen) = found.compositions[index], figures[index]
            reason = found.why(index)
            participations = None if found.participations is None else found.participations[index]
            if amplified:
                amplified = epsilon < accounting.in_full(worst, delta, adjacency, chosen, conversion)
                if not amplified and unit == "client":
                    reason = "the cohort is hidden, but sampling amplifies nothing here: every release counts in full"
                    if math.isinf(epsilon):
                        reason = "a client that joins or leaves may decide whether a round is released"
                    reason += spoilt(accounting.tails(worst, adjacency, chosen), epsilon, delta) + found.caveat
            if chosen == "rdp":
                rdp_epsilon = epsilon
            elif beside:
                with suppress(UnsupportedAccounting):
                    rdp_epsilon = max(spent(c, "rdp") for c in found.compositions)
            pure = max(accounting.pure_epsilon(c) for c in found.compositions)
            if 0.0 < pure < math.inf:
                reason += f"; randomised response needs no δ: ε = {format_epsilon(pure)} at δ = 0"
        if AUTHORITY in parties_of(observer) and AUTHORITY not in self.threat.learns:
            reason += "; this protocol has no authority, so one would see what the public sees"
        reason += self._meaningless(delta, unit)
        simulated = any(event.noise_source == "seeded" for event in self._events if event.unit == unit)
        holds = bool(parties_of(observer) & self.threat.computational)
        return Statement(
            epsilon=epsilon,
            delta=delta,
            observer=str(observer),
            unit=unit,
            adjacency=adjacency,
            accountant=chosen,
            conversion=conversion,
            rdp_epsilon=rdp_epsilon,
            rounds=self._rounds(unit),
            participations=participations,
            planned=found.noise and found.noise[0],
            achieved=found.noise and found.noise[1],
            amplified=amplified,
            reason=reason,
            computational=found.compositions is not None and holds and not found.local and bool(self._events),
            simulated=0.0 < epsilon < math.inf and simulated,
        )

    def epsilon(
        self,
        delta: float,
        *,
        observer: Observer,
        unit: Unit = "client",
        accountant: Accountant | None = None,
        conversion: Conversion = "improved",
    ) -> float:
        """The ε at δ against an observer; ``inf`` where nothing is guaranteed. See :meth:`statement` for why.

        Raises:
            UnsupportedAccounting, ConfigurationError: see :meth:`statement`.
        """
        statement = self.statement(
            delta, observer=observer, unit=unit, accountant=accountant, conversion=conversion, beside=False
        )
        return statement.epsilon

    def delta(
        self,
        epsilon: float,
        *,
        observer: Observer,
        unit: Unit = "client",
        accountant: Accountant | None = None,
        conversion: Conversion = "improved",
    ) -> float:
        """The δ at ε against an observer; 1 where nothing is guaranteed.

        Raises:
            UnsupportedAccounting, ConfigurationError: see :meth:`statement`; ε negative or not finite.
        """
        if not (is_real(epsilon) and epsilon >= 0):
            raise ConfigurationError("ε is finite and ≥ 0.", value=epsilon, remedy="Give e.g. epsilon=1.0.")
        found = self._exposure(observer, unit, accountant, conversion)
        if found.compositions is None:
            return 1.0
        adjacency = self._adjacency(unit)
        return max(
            accounting.delta(c, epsilon, adjacency, accountant, conversion)
            if accountant
            else accounting.headline_delta(c, epsilon, adjacency, conversion)
            for c in found.compositions
        )

    def would_exceed(self, budget: Budget, *further: LedgerEvent) -> bool:
        """Whether the ledger, with further events, is over a budget.

        Raises:
            UnsupportedAccounting: see :meth:`statement`.
            ConfigurationError: the budget's δ is not below one over the clients, or over the smallest client's records.
        """
        units = self._units(budget.unit)
        if units is not None:
            check_delta(budget.delta, units, budget.unit)
        ledger = Ledger(
            threat=self.threat,
            population=self.population,
            adjacency=self.adjacency,
            events=(*self._events, *further),
            records=self.records,
        )
        return ledger.epsilon(budget.delta, observer=budget.observer, unit=budget.unit) > budget.epsilon

    def explain(self, delta: float, *, unit: Unit = "client") -> str:
        """One line for each observer that the protocol knows, and for the largest coalition it permits.

        Raises:
            ConfigurationError: see :meth:`statement`.
        """
        observers: list[Observer] = ["server", "participant", "public"]
        if AUTHORITY in self.threat.learns:
            observers.insert(1, "authority")
        if 0.0 < self.threat.corrupt < 1.0:
            observers.append(Coalition(server=True, clients=self.threat.corrupt))
        return "\n".join(self._told(delta, observer, unit) for observer in observers)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per event, with its own explanation in ``words``; cohorts as their sizes.

        It is the simulator's where the sizes of cohorts are private. How many records clients hold is not in it.
        """
        import pandas as pd

        return pd.DataFrame([row(event) for event in self._events], columns=COLUMNS)

    def to_json(self, *, private: bool = True) -> str:
        """Everything needed to state ε again, with the versions that stated it.

        Args:
            private: also the smallest client's number of records, which is private unless it is a public bound; the
                text names it under ``"private"``. Without it no δ per record is checked.
        """
        return files.dump(self, private=private)

    @classmethod
    def from_json(cls, text: str) -> Ledger:
        """The ledger that :meth:`to_json` wrote, in this version or an earlier one.

        Raises:
            ConfigurationError: not such a text.
        """
        return files.load(cls, text)

    def __len__(self) -> int:
        return len(self._events)

    def __repr__(self) -> str:
        return f"Ledger({self.rounds} releases, {self.population} clients, {self.adjacency})"

    def _repr_html_(self) -> str:
        if not self._events:
            return f"<p>{self!r}: nothing released</p>"
        table = self.frame[list(_SHOWN)].rename(columns=_SHOWN)
        return f"<p>{self!r}</p>{table.to_html(index=False, max_rows=20, float_format='{:.4g}'.format)}"

    def _told(self, delta: float, observer: Observer, unit: Unit) -> str:
        try:
            return str(self.statement(delta, observer=observer, unit=unit))
        except UnsupportedAccounting as error:
            return f"Against the {observer}: no accountant for this. {error}"

    def _exposure(
        self, observer: Observer, unit: Unit, accountant: Accountant | None, conversion: Conversion
    ) -> Exposure:
        _check_choice("unit", unit, ("client", "record"))
        _check_choice("accountant", accountant, (None, "pld", "rdp"))
        _check_choice("conversion", conversion, ("improved", "classic"))
        return exposure(
            self._events,
            threat=self.threat,
            observer=observer,
            population=self.population,
            adjacency=self.adjacency,
            unit=unit,
        )

    def _adjacency(self, unit: Unit) -> Adjacency:
        return "add-remove" if unit == "record" else self.adjacency

    def _rounds(self, unit: Unit) -> int:
        if unit == "client":
            return self.rounds
        return len({event.round for event in self._events if event.unit == "record"})

    def _units(self, unit: Unit) -> int | None:
        return self.population if unit == "client" else self.records

    def _meaningless(self, delta: float, unit: Unit) -> str:
        units = self._units(unit)
        if units is None or delta < 1.0 / units:
            return ""
        whose = " of the smallest client" if unit == "record" else ""
        return f"; δ is not below 1/{units}, so publishing one {unit}{whose} in full would meet it"


def _check_records_of_one_client(event: LedgerEvent) -> None:
    if event.adjacency != "add-remove":
        raise PrivacyError(
            "Per record neighbours differ in one record that is there or not.",
            value=event.adjacency,
            remedy='Record the event with adjacency="add-remove".',
        )
    if len(event.cohort) != 1 or event.scope != client(event.cohort[0]):
        raise PrivacyError(
            "An event per record is one client's: its scope, and alone in its cohort.",
            value=f"{event.scope} with {len(event.cohort)} clients",
            remedy='Record each client\'s steps as an event of its own, e.g. scope="client/3", cohort=(3,).',
        )


def _check_choice(name: str, value: str | None, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{name} is one of {allowed}.", value=value, remedy="Use one of these.")
