"""Typed settings: one TOML file, every value also as an environment variable OVERREAD_<SECTION>__<KEY>.

Validated at start; the error names the line at fault. Secrets are masked in repr.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from models.card import Condition
from node.conditions import BadCondition, parse
from node.errors import Misconfigured
from node.profiles import SERIES_NUMBERS, Kind, Profile, SeriesNumber
from node.profiles import known as known_profiles
from node.settings_text import explain, overlay
from node.settings_workers import Seconds, WorkersSection
from node.settings_workers import Section as _Section


def _ae_title(value: str) -> str:
    """Check an AE title. Ref: PS3.5 6.2, VR AE."""
    value = value.strip(" ")
    if not re.fullmatch(r"[\x20-\x5b\x5d-\x7e]{1,16}", value):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return value


AETitle = Annotated[str, AfterValidator(_ae_title)]
Port = Annotated[int, Field(ge=0, le=65535)]
Days = Annotated[float, Field(ge=0)]
# How work ends, in the order in which images go when the disk fills: first what is safest elsewhere.
IMAGES_DAYS = {"committed": 7.0, "accepted": 7.0, "dropped": 7.0, "declined": 7.0, "failed": 30.0}


class Caller(_Section):
    """Who may send to us: an AE title, and the hosts it may come from (empty: any)."""

    ae_title: AETitle
    hosts: tuple[str, ...] = ()


class NodeSection(_Section):
    """The DICOM listener and the data folder. `allowed_callers` empty: anyone may send."""

    ae_titles: tuple[AETitle, ...] = Field(default=("OVERREAD",), min_length=1)
    host: str = "127.0.0.1"
    port: Port = 11112
    data_dir: Path = Path("overread-data")
    allowed_callers: tuple[Caller, ...] = ()
    max_associations: int = Field(default=64, ge=1)
    max_pdu_bytes: int = Field(default=131072, ge=4096, le=1048576)
    max_instance_bytes: int = Field(default=4 * 1024**3, ge=1024)
    network_timeout_s: Seconds = 60
    association_timeout_s: Seconds = 30
    free_disk_min_mb: int = Field(default=2048, ge=0)
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None

    @model_validator(mode="after")
    def _tls_is_whole(self) -> NodeSection:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key belong together: set both or neither")
        return self


class BrokerSection(_Section):
    """Redis or Valkey for Celery; "embedded" is a Valkey that `overread up` supervises."""

    url: SecretStr = SecretStr("embedded")


class LedgerSection(_Section):
    """Where states live: "sqlite" (one host, a local disk) or a postgresql+psycopg URL."""

    url: SecretStr = SecretStr("sqlite")


class ModelsSection(_Section):
    """Folders with model cards besides the starters; `starters` False leaves ours out."""

    dir: Path | None = None
    starters: bool = True


class AssemblySection(_Section):
    """When a study is complete: `quiet_s` seconds without an arrival, and with proof = "c-find" what the peers count.

    count_stable_s  between the two counts that prove a series
    give_up_s       after the last arrival: a study of which the archive has more is then declined or held (`on_mismatch`),
                    one that could not be proved goes on with the quiet time as its evidence
    on_future_date  a series that the modality dates later than tomorrow is told as odd, or held
    fetch_inputs    get from peers with `retrieve` the series that a model of several inputs lacks and nobody sent
    """

    quiet_s: Seconds = 60
    quiet_max_s: Seconds = 3600
    proof: Literal["none", "c-find"] = "none"
    count_stable_s: Seconds = 10
    give_up_s: Seconds = 900
    on_mismatch: Literal["decline", "hold"] = "decline"
    fetch_inputs: bool = True
    on_future_date: Literal["warn", "hold"] = "warn"


class RetentionSection(_Section):
    """Days that files stay after their work has ended, and what goes first when the disk fills. Unfinished work always stays.

    images_days              of a study, by how its work ended; one number counts for all endings
    parcels_days             of results; superseded_parcels_days: of those that a newer revision replaced before they were sent
    work_days                volumes and predictions: to look at what failed
    rows_days                the index rows of removed images; states, reasons and deliveries stay for good
    evict_below_mb           free disk below which finished work goes before its days (default: half as much again as free_disk_min_mb)
    order                    whose images go first then; an ending that is not named keeps its days
    """

    images_days: Mapping[str, Days] = Field(default_factory=lambda: dict(IMAGES_DAYS))
    parcels_days: Days = 90
    superseded_parcels_days: Days = 7
    work_days: Days = 0
    rows_days: Days = 30
    evict_below_mb: int | None = Field(default=None, ge=0)
    order: tuple[str, ...] = tuple(IMAGES_DAYS)

    @field_validator("images_days", mode="before")
    @classmethod
    def _one_number_counts_for_all(cls, given: Any) -> Any:
        if isinstance(given, int | float) and not isinstance(given, bool):
            return dict.fromkeys(IMAGES_DAYS, given)
        return IMAGES_DAYS | dict(given) if isinstance(given, Mapping) else given

    @field_validator("images_days", "order")
    @classmethod
    def _every_ending_is_known(cls, given: Any) -> Any:
        if unknown := set(given) - set(IMAGES_DAYS):
            raise ValueError(f"no work ends as {', '.join(sorted(unknown))}; it ends as {', '.join(IMAGES_DAYS)}")
        if len(set(given)) != len(given):
            raise ValueError("an ending is named twice")
        return given


class ResultsSection(_Section):
    """What our objects carry. Without `uid_root`, UIDs are UUID-derived (2.25).

    profile         of a destination that names none, and of results that are kept without sending
    series_numbers  kind of object -> Series Number
    """

    uid_root: Annotated[str, StringConstraints(pattern=r"^[0-2](\.(0|[1-9][0-9]*)){1,20}$")] | None = None
    installation_id: Annotated[str, StringConstraints(max_length=64, pattern=r"^[\x20-\x5b\x5d-\x7e]*$")] = "overread"
    institution: str | None = None
    profile: str = "ohif"
    series_numbers: Mapping[Kind, SeriesNumber] = Field(default_factory=lambda: dict(SERIES_NUMBERS))

    @field_validator("series_numbers")
    @classmethod
    def _every_kind_has_one(cls, given: Mapping[Kind, int]) -> Mapping[Kind, int]:
        return dict(SERIES_NUMBERS) | dict(given)


class Peer(_Section):
    """A DICOM peer: where results go, whether it commits, whether it may be queried, how images are fetched from it.

    profile             viewer profile of its results (default: that of [results])
    move_to             the AE title of ours that the peer knows as a C-MOVE destination (default: the first of ae_titles)
    dicomweb_url        root of its DICOMweb services, for example https://pacs:8043/dicom-web
    retrieve_timeout_s  no fetch of one study takes longer
    """

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    ae_title: AETitle
    host: str
    port: Port
    calling_ae: AETitle | None = None
    send_results: bool = True
    profile: str | None = None
    storage_commitment: bool = False
    query: bool = False
    commitment_timeout_s: Seconds = 300
    # With the back-off up to 15 minutes this bridges a day's maintenance of the archive.
    max_attempts: int = Field(default=100, ge=1)
    retry_first_s: Seconds = 5
    retry_max_s: Seconds = 900
    tls: bool = False
    retrieve: Literal["none", "c-move", "c-get", "wado-rs"] = "none"
    move_to: AETitle | None = None
    dicomweb_url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")] | None = None
    dicomweb_user: str | None = None
    dicomweb_password: SecretStr | None = None
    dicomweb_token: SecretStr | None = None
    retrieve_timeout_s: Seconds = 600
    retrieve_attempts: int = Field(default=3, ge=1, le=10)

    @model_validator(mode="after")
    def _dicomweb_is_whole(self) -> Peer:
        if self.retrieve == "wado-rs" and self.dicomweb_url is None:
            raise ValueError('retrieve = "wado-rs" needs dicomweb_url, the root of the peer\'s DICOMweb services')
        if (self.dicomweb_user is None) != (self.dicomweb_password is None):
            raise ValueError("dicomweb_user and dicomweb_password belong together: set both or neither")
        if self.dicomweb_token is not None and self.dicomweb_user is not None:
            raise ValueError("set dicomweb_token or dicomweb_user with dicomweb_password, not both")
        return self


class Rule(_Section):
    """Site policy for one model ("*": every model). The first rule of which everything holds decides.

    `when` is one condition as text (node.conditions); `conditions` a list of which all must hold.
    """

    model: str
    mode: Literal["live", "shadow", "off"] = "live"
    called_ae: tuple[AETitle, ...] = ()
    calling_ae: tuple[AETitle, ...] = ()
    when: str = ""
    conditions: tuple[Condition, ...] = ()
    priority: Literal["stat", "routine", "low"] = "routine"
    destinations: tuple[str, ...] | None = None

    @field_validator("when")
    @classmethod
    def _when_can_be_read(cls, given: str) -> str:
        if given.strip():
            try:
                parse(given)
            except BadCondition as error:
                raise ValueError(f"cannot be read: {error}") from None
        return given.strip()


class WebSection(_Section):
    """Health and status over HTTP."""

    host: str = "127.0.0.1"
    port: Port = 8042


class Settings(_Section):
    """All settings of one node."""

    node: NodeSection = NodeSection()
    broker: BrokerSection = BrokerSection()
    ledger: LedgerSection = LedgerSection()
    models: ModelsSection = ModelsSection()
    assembly: AssemblySection = AssemblySection()
    workers: WorkersSection = WorkersSection()
    retention: RetentionSection = RetentionSection()
    results: ResultsSection = ResultsSection()
    web: WebSection = WebSection()
    profiles: tuple[Profile, ...] = ()
    peers: tuple[Peer, ...] = ()
    rules: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _eviction_comes_before_refusal(self) -> Settings:
        if self.retention.evict_below_mb is not None and self.retention.evict_below_mb < self.node.free_disk_min_mb:
            raise ValueError("[retention] evict_below_mb is less than [node] free_disk_min_mb: the node would refuse and never make room")
        return self

    @model_validator(mode="after")
    def _names_resolve(self) -> Settings:
        names = [peer.name for peer in self.peers]
        if len(set(names)) != len(names):
            raise ValueError("two peers share a name")
        for peer in self.peers:
            if peer.storage_commitment and peer.calling_ae is not None and peer.calling_ae not in self.node.ae_titles:
                # Its commitment reports are addressed to the title that asked: the listener must answer to it.
                raise ValueError(
                    f"the peer {peer.name!r} is called as {peer.calling_ae!r}, which is not among [node] ae_titles: add it there"
                )
        profiles = known_profiles(self.profiles)
        for name in (self.results.profile, *(peer.profile for peer in self.peers if peer.profile is not None)):
            if name not in profiles:
                raise ValueError(f"no viewer profile is called {name!r}; there are {', '.join(profiles)}")
        for rule in self.rules:
            for name in rule.destinations or ():
                if name not in names:
                    raise ValueError(f"a rule for {rule.model!r} names the destination {name!r}, which no [[peers]] has")
        return self

    @property
    def data_dir(self) -> Path:
        """Give the data folder."""
        return self.node.data_dir

    @property
    def work_dir(self) -> Path:
        """Give the folder of work files; several hosts share it."""
        return self.workers.work_dir or self.node.data_dir / "work"

    @property
    def evict_below_bytes(self) -> int:
        """Give the free disk below which finished work is evicted: before the listener refuses."""
        given = self.retention.evict_below_mb
        return (self.node.free_disk_min_mb * 3 // 2 if given is None else given) * 1024**2

    def peer(self, name: str) -> Peer:
        """Give the peer of that name; raises Misconfigured."""
        for peer in self.peers:
            if peer.name == name:
                return peer
        raise Misconfigured(f"no [[peers]] entry is named {name!r}; add one or change the rule that names it")

    def profile(self, name: str | None = None) -> Profile:
        """Give the viewer profile of that name (None: the default of [results]); raises Misconfigured."""
        found = known_profiles(self.profiles).get(name or self.results.profile)
        if found is None:
            raise Misconfigured(f"no viewer profile is called {name!r} any more; add it to [[profiles]]")
        return found

    def profile_of(self, destination: str | None) -> Profile:
        """Give the viewer profile of a destination, of none and of one that is no peer any more the default; raises Misconfigured."""
        return self.profile(next((peer.profile for peer in self.peers if peer.name == destination), None))

    def chain_of(self, destination: str | None) -> tuple[str, ...]:
        """Give the names of a destination's profile and of those that it falls back to, in order; raises Misconfigured."""
        chain = [self.profile_of(destination)]
        while chain[-1].fallback is not None:
            chain.append(self.profile(chain[-1].fallback))
        return tuple(profile.name for profile in chain)

    def destinations(self) -> tuple[str, ...]:
        """Give the names of all peers that receive results."""
        return tuple(peer.name for peer in self.peers if peer.send_results)


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the file (none: defaults) and the environment; raises Misconfigured with the line at fault."""
    environ = os.environ if environ is None else environ
    text = ""
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise Misconfigured(f"cannot read the settings file {path}: {error.strerror}") from error
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"{path} is not valid TOML: {error}") from error
    from_environment = overlay(values, environ)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise Misconfigured(explain(error, path, text, from_environment)) from None
    return settings.model_copy(update={"node": settings.node.model_copy(update={"data_dir": settings.node.data_dir.absolute()})})
