"""Tables of the ledger. A time is seconds since the epoch by the ledger's clock; NULL means "not yet".

Every row that moves has a `fence`: it grows with each move that hands the row to somebody, and a
writer that holds an old number is refused.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    true,
)

VERSION = 3
METADATA = MetaData()

META = Table("meta", METADATA, Column("key", String(32), primary_key=True), Column("value", String(255), nullable=False))

INSTANCES = Table(
    "instances",
    METADATA,
    Column("instance_id", Integer, primary_key=True),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("sop_class_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("series_instance_uid", String(64), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("path", String(255), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("received_at", Float, nullable=False),
    Column("calling_ae", String(16), nullable=False),
    Column("called_ae", String(16), nullable=False),
    Column("peer_host", String(255), nullable=False),
    Column("header", JSON, nullable=False),
    # The first revision it belongs to; 0 for our own results, which come before any.
    Column("revision", Integer, nullable=False),
    # Other bytes of a SOP Instance UID that was there before: kept, never analysed.
    Column("conflict", Boolean, nullable=False),
    # The file is gone by retention; the row stays.
    Column("removed", Boolean, nullable=False),
    # Others who sent the same bytes, each as "AE title host"; NULL: nobody else.
    Column("also_from", JSON(none_as_null=True)),
    UniqueConstraint("sop_instance_uid", "sha256"),
    Index("instances_by_study", "study_instance_uid", "series_instance_uid"),
)
# Which studies have files, and which only rows: retention walks these, never the whole table.
_HERE, _GONE = ~INSTANCES.c.removed, INSTANCES.c.removed == true()
Index("instances_here", INSTANCES.c.study_instance_uid, INSTANCES.c.received_at, sqlite_where=_HERE, postgresql_where=_HERE)
Index("instances_gone", INSTANCES.c.study_instance_uid, sqlite_where=_GONE, postgresql_where=_GONE)

REVISIONS = Table(
    "revisions",
    METADATA,
    Column("revision_id", Integer, primary_key=True),
    Column("study_instance_uid", String(64), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    # Counts arrivals and moves: a decision taken on an older look is refused.
    Column("fence", Integer, nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("last_arrival_at", Float, nullable=False),
    Column("completed_at", Float),
    Column("ended_at", Float),
    Column("quiet_factor", Integer, nullable=False),
    Column("released", Boolean, nullable=False),
    # Only looked up by ("where is my study"), never shown.
    Column("accession_number", String(64), index=True),
    # What speaks for the revision being whole (node/evidence.py); while RECEIVING, what the last look at the peers found.
    Column("evidence", JSON(none_as_null=True)),
    # The peers are not asked for their counts before this.
    Column("ask_after", Float),
    # How the last association that brought images of it ended; told by the sender, proves nothing.
    Column("sender", JSON(none_as_null=True)),
    Column("reason", Text),
    # What is odd but no reason to hold it, in sentences.
    Column("warnings", JSON(none_as_null=True)),
    # On the newest: what the index counted before retention forgot its rows.
    Column("images_were", Integer),
    Column("series_were", Integer),
    UniqueConstraint("study_instance_uid", "number"),
    Index("revisions_by_state", "state", "last_arrival_at"),
)

# Why revisions were held, and who let them go or dropped them. `findings`: kind, key, reason; a released key is not held again.
HOLDS = Table(
    "holds",
    METADATA,
    Column("hold_id", Integer, primary_key=True),
    Column("study_instance_uid", String(64), nullable=False, index=True),
    Column("revision", Integer, nullable=False),
    Column("findings", JSON, nullable=False),
    Column("held_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("outcome", String(16)),
    Column("by_whom", String(64)),
    Column("because", Text),
)

DECLINES = Table(
    "declines",
    METADATA,
    Column("revision_id", Integer, primary_key=True),
    Column("series_instance_uid", String(64), primary_key=True),
    Column("model", String(32), primary_key=True),
    Column("reason", Text, nullable=False),
    ForeignKeyConstraint(["revision_id"], ["revisions.revision_id"]),
)

JOBS = Table(
    "jobs",
    METADATA,
    Column("job_id", String(64), primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("model", String(32), nullable=False),
    Column("version", String(16), nullable=False),
    Column("card_digest", String(64), nullable=False),
    Column("inputs", JSON, nullable=False),
    Column("mode", String(8), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("destinations", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("stage", String(16), nullable=False),
    # Claims of this stage; how often a lost work file sent the job back to an earlier one.
    Column("attempt", Integer, nullable=False),
    Column("returns", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    # No claim before this; the sweep's next message not before that.
    Column("not_before", Float, nullable=False),
    Column("submit_after", Float, nullable=False),
    Column("submitted_at", Float),
    Column("submissions", Integer, nullable=False),
    Column("started_at", Float),
    Column("lease_until", Float),
    Column("reason", Text),
    # Of a job that ended without a result: whether it was decided who is told (node/ledger/failures.py).
    Column("told", Boolean),
    # Planned on a hint that the study is whole: prepared, and no further before the proof.
    Column("provisional", Boolean, nullable=False, default=False),
    # The reports of the same model on earlier revisions that the destinations have: written down once, so that compose is repeatable.
    Column("predecessor", JSON(none_as_null=True)),
    # Whose results they are, as asked of the archive just before the first compose (node/demographics.py); first write wins.
    Column("patient", JSON(none_as_null=True)),
    # How many images `inputs` named before retention forgot them; the id still stands for them.
    Column("images_were", Integer),
    # With the state: SQLite would else rather walk through all that ended in it.
    Index("jobs_by_study", "study_instance_uid", "state"),
    Index("jobs_to_submit", "state", "submit_after"),
    # RUNNING ones are few; those that ended are counted and listed by when they did.
    Index("jobs_by_state", "state", "updated_at"),
)

_UNTOLD = JOBS.c.told == false()
Index("jobs_untold", JOBS.c.submit_after, sqlite_where=_UNTOLD, postgresql_where=_UNTOLD)

JOB_SERIES = Table(
    "job_series",
    METADATA,
    Column("job_id", String(64), primary_key=True),
    Column("series_instance_uid", String(64), primary_key=True),
    ForeignKeyConstraint(["job_id"], ["jobs.job_id"]),
    Index("job_series_by_series", "series_instance_uid"),
)

STAGE_TIMES = Table(
    "stage_times",
    METADATA,
    Column("job_id", String(64), primary_key=True),
    Column("fence", Integer, primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("stage", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("outcome", String(16)),
    ForeignKeyConstraint(["job_id"], ["jobs.job_id"]),
)

PARCELS = Table(
    "parcels",
    METADATA,
    Column("job_id", String(64), primary_key=True),
    Column("generation", Integer, primary_key=True),
    # The viewer profile's name; its digest says what it was when the parcel was written.
    Column("profile", String(32), primary_key=True),
    Column("study_instance_uid", String(64), nullable=False),
    Column("profile_digest", String(64), nullable=False),
    Column("summary", Text, nullable=False),
    Column("written_at", Float, nullable=False),
    ForeignKeyConstraint(["job_id"], ["jobs.job_id"]),
)

PARCEL_OBJECTS = Table(
    "parcel_objects",
    METADATA,
    Column("job_id", String(64), primary_key=True),
    Column("generation", Integer, primary_key=True),
    Column("profile", String(32), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("sop_class_uid", String(64), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False, index=True),
    Column("series_instance_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("path", String(255), nullable=False),
    Column("sha256", String(64), nullable=False),
    ForeignKeyConstraint(["job_id", "generation", "profile"], ["parcels.job_id", "parcels.generation", "parcels.profile"]),
)

DELIVERIES = Table(
    "deliveries",
    METADATA,
    Column("delivery_id", String(64), primary_key=True),
    Column("job_id", String(64), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("destination", String(32), nullable=False),
    # Of the parcel that is sent; the one to be written instead, where the destination refuses it: nothing is sent meanwhile.
    Column("profile", String(32), nullable=False),
    Column("wants_profile", String(32)),
    # Each refusal of a parcel's class: profile, to, reason, at.
    Column("refusals", JSON(none_as_null=True)),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("next_at", Float, nullable=False),
    Column("submit_after", Float, nullable=False),
    Column("submissions", Integer, nullable=False),
    Column("started_at", Float),
    Column("lease_until", Float),
    Column("sent_at", Float),
    # When its commitment was last looked after.
    Column("checked_at", Float),
    Column("ended_at", Float),
    Column("proof", Text),
    Column("reason", Text),
    UniqueConstraint("job_id", "generation", "destination"),
    ForeignKeyConstraint(["job_id", "generation", "profile"], ["parcels.job_id", "parcels.generation", "parcels.profile"]),
    Index("deliveries_to_submit", "state", "submit_after"),
    Index("deliveries_by_end", "state", "ended_at"),
)

DELIVERY_OBJECTS = Table(
    "delivery_objects",
    METADATA,
    Column("delivery_id", String(64), primary_key=True),
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("position", Integer, nullable=False),
    # C-STORE status of the last send; sent_at NULL: to be sent (again).
    Column("status", Integer),
    Column("sent_at", Float),
    Column("committed_at", Float),
    Column("failure", Integer),
    ForeignKeyConstraint(["delivery_id"], ["deliveries.delivery_id"]),
)

TRANSACTIONS = Table(
    "transactions",
    METADATA,
    Column("transaction_uid", String(64), primary_key=True),
    Column("delivery_id", String(64), nullable=False, index=True),
    Column("asked_at", Float, nullable=False),
    Column("reported_at", Float),
    ForeignKeyConstraint(["delivery_id"], ["deliveries.delivery_id"]),
)

# What an Instance Availability Notification says is there: images of each series by count. Ref: PS3.4 R
NOTICES = Table(
    "notices",
    METADATA,
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("study_instance_uid", String(64), nullable=False, index=True),
    Column("calling_ae", String(16), nullable=False),
    Column("received_at", Float, nullable=False),
    Column("series", JSON, nullable=False),
)

# Whose studies are here, by a key made of the patient ID: a patient's studies can be found and purged without keeping the ID.
PATIENTS = Table(
    "patients",
    METADATA,
    Column("study_instance_uid", String(64), primary_key=True),
    Column("patient_key", String(32), primary_key=True, index=True),
    Column("issuer", String(64), primary_key=True),
)
