"""The rows of a ledger that is many years old, written by SQL in bulk; `bench/ledger.py` says what is in it.

Study i was received STEP_S seconds after study i - 1: 200 a day; a million are 13.7 years. The last one is a minute old.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from node.ledger import Ledger, removal

STEP_S = 432.0
INDEXED = 4000
HEADER = {
    "Modality": "CT", "PatientID": "@", "PatientName": "Bench^Patient", "AccessionNumber": "A@", "StudyDate": "20260101", "Rows": 512,
    "Columns": 512, "SeriesDescription": "Thorax 1.5 B60f", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "PixelSpacing": [0.7, 0.7],
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [-180.0, -180.0, 12.5], "SliceThickness": 1.5,
    "BodyPartExamined": "CHEST", "Manufacturer": "Bench", "ConvolutionKernel": "B60f", "FrameOfReferenceUID": "1.2.3.4.5.6.7.8",
}  # fmt: skip
EVIDENCE = {"said": "counted twice: archive has 2 series of 160 images, all here", "proof": "count", "looks": 2, "waited_s": 60.0}
DECLINE = "it is a CT series, the model takes MR; its slices are 1.5 mm apart"

# Names that each statement may use of study i of N: where its states stand in a life of many years.
STUDY = "('1.2.840.113619.' || ((CAST(i AS BIGINT) * 7919) % 1000003) || '.' || i)"
JOB = "(md5('job' || i) || md5(i || 'x'))"
AT = "(:now - (:n - i) * :step)"
HAS_JOB = "i % 5 <> 0 AND i <= :n - 60"
REVISION_STATE = "CASE WHEN i > :n - 20 THEN 'RECEIVING' WHEN i > :n - 60 THEN 'HELD' WHEN i % 5 = 0 THEN 'DECLINED' ELSE 'PLANNED' END"
JOB_STATE = """CASE WHEN i > :n - 300 THEN 'QUEUED' WHEN i > :n - 305 THEN 'RUNNING' WHEN i > :n - 1000 THEN 'WRITTEN'
    WHEN i % 100 = 1 THEN 'FAILED' WHEN i % 25 = 2 THEN 'DECLINED' ELSE 'WRITTEN' END"""
WRITTEN = f"{HAS_JOB} AND ({JOB_STATE}) = 'WRITTEN'"
DELIVERY_STATE = (
    """CASE WHEN i > :n - 555 THEN 'PENDING' WHEN i > :n - 930 THEN 'SENT' WHEN i % 100 = 3 THEN 'FAILED' ELSE 'COMMITTED' END"""
)

STATEMENTS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("revisions", "i > 0", {
        "revision_id": "i", "study_instance_uid": STUDY, "number": "1", "state": REVISION_STATE, "fence": "300", "opened_at": AT,
        "last_arrival_at": f"{AT} + 30", "completed_at": f"CASE WHEN i > :n - 20 THEN NULL ELSE {AT} + 90 END",
        "ended_at": f"CASE WHEN i > :n - 60 THEN NULL ELSE {AT} + 91 END", "quiet_factor": "1", "released": "FALSE",
        "accession_number": "'A' || i", "evidence": "{json}:evidence{end}",
        "reason": "CASE WHEN i % 5 = 0 THEN 'no model takes this study' ELSE NULL END",
        "images_were": "CASE WHEN i <= :n - :indexed THEN 160 ELSE NULL END",
        "series_were": "CASE WHEN i <= :n - :indexed THEN 2 ELSE NULL END",
    }),
    ("patients", "i > 0", {"study_instance_uid": STUDY, "patient_key": "key_of('P' || i)", "issuer": "''"}),
    ("declines", "i <= :n - 60", {
        "revision_id": "i", "series_instance_uid": f"{STUDY} || '.1'", "model": "'brain-mr'", "reason": ":decline",
    }),
    ("declines", "i <= :n - 60", {
        "revision_id": "i", "series_instance_uid": f"{STUDY} || '.2'", "model": "'chest-ct'", "reason": ":decline",
    }),
    ("jobs", HAS_JOB, {
        "job_id": JOB, "generation": "1", "study_instance_uid": STUDY, "revision": "1", "model": "'chest-ct'", "version": "'1.0'",
        "card_digest": "md5('card')",
        "inputs": "{json}CASE WHEN i <= :n - :indexed THEN '{{}}' ELSE replace(:uids, '@', " + STUDY + ") END{end}",
        "mode": "'live'", "priority": "i % 9", "destinations": "{json}'[\"archive\"]'{end}", "state": JOB_STATE,
        "stage": f"CASE WHEN ({JOB_STATE}) IN ('QUEUED', 'RUNNING') THEN 'prepare' ELSE 'compose' END", "attempt": "1", "returns": "0",
        "fence": "3", "created_at": f"{AT} + 91", "updated_at": f"{AT} + 150", "not_before": AT, "submit_after": ":now + 30",
        "submissions": "1",
        "lease_until": f"CASE WHEN ({JOB_STATE}) = 'RUNNING' THEN :now + 86400 ELSE NULL END",
        "reason": "CASE WHEN i % 100 = 1 THEN 'the worker was lost' ELSE NULL END", "provisional": "FALSE",
        "images_were": "CASE WHEN i <= :n - :indexed THEN 100 ELSE NULL END",
    }),
    *(("stage_times", HAS_JOB, {
        "job_id": JOB, "fence": str(fence), "generation": "1", "stage": f"'{stage}'", "attempt": "1",
        "started_at": f"{AT} + {90 + fence * 10}",
        "ended_at": f"{AT} + {100 + fence * 10}", "outcome": "'done'",
    }) for fence, stage in ((1, "prepare"), (2, "infer"), (3, "compose"))),
    ("parcels", WRITTEN, {
        "job_id": JOB, "generation": "1", "profile": "'ohif'", "study_instance_uid": STUDY, "profile_digest": "md5('profile')",
        "summary": "'1 nodule'", "written_at": f"{AT} + 150",
    }),
    *(("parcel_objects", WRITTEN, {
        "job_id": JOB, "generation": "1", "profile": "'ohif'", "position": str(position), "kind": f"'{kind}'",
        "sop_class_uid": "'1.2.840.10008.5.1.4.1.1.66.4'",
        "sop_instance_uid": f"'2.25.{position}' || i", "series_instance_uid": f"'2.25.3{position}' || i",
        "transfer_syntax_uid": "'1.2.840.10008.1.2.1'",
        "path": "'parcels/' || " + JOB + f" || '/1/0123456789abcdef/0{position + 1}-{kind}.dcm'",
        "sha256": JOB,
    }) for position, kind in ((0, "seg"), (1, "sr"))),
    ("deliveries", WRITTEN, {
        "delivery_id": "md5('delivery' || i)", "job_id": JOB, "generation": "1", "destination": "'archive'",
        "profile": "'ohif'", "state": DELIVERY_STATE,
        "attempt": "1", "fence": "1", "created_at": f"{AT} + 150", "next_at": f"{AT} + 150", "submit_after": f"{AT} + 150",
        "submissions": "1", "sent_at": f"{AT} + 152", "checked_at": ":now",
        "ended_at": f"CASE WHEN ({DELIVERY_STATE}) IN ('PENDING', 'SENT') THEN NULL ELSE {AT} + 160 END",
    }),
    *(("delivery_objects", WRITTEN, {
        "delivery_id": "md5('delivery' || i)", "sop_instance_uid": f"'2.25.{position}' || i", "position": str(position), "status": "0",
        "sent_at": f"CASE WHEN ({DELIVERY_STATE}) = 'PENDING' THEN NULL ELSE {AT} + 152 END",
        "committed_at": f"CASE WHEN ({DELIVERY_STATE}) = 'COMMITTED' THEN {AT} + 160 ELSE NULL END",
    }) for position in (0, 1)),
    ("transactions", f"{WRITTEN} AND i <= :n - 555", {
        "transaction_uid": "'2.25.9' || i", "delivery_id": "md5('delivery' || i)", "asked_at": f"{AT} + 152", "reported_at": f"{AT} + 160",
    }),
    ("job_series", f"{HAS_JOB} AND i > :n - :indexed", {"job_id": JOB, "series_instance_uid": f"{STUDY} || '.1'"}),
)  # fmt: skip
INSTANCES = {
    "sop_instance_uid": f"{STUDY} || '.' || s || '.' || m", "sop_class_uid": "'1.2.840.10008.5.1.4.1.1.2'",
    "transfer_syntax_uid": "'1.2.840.10008.1.2.1'", "study_instance_uid": STUDY, "series_instance_uid": f"{STUDY} || '.' || s",
    "sha256": "md5(i || '.' || s || '.' || m) || md5('sha')", "path": "'incoming/' || md5(i || '.' || s || '.' || m) || '.dcm'",
    "size_bytes": "527000", "received_at": f"{AT} + 15", "calling_ae": "'PACS'", "called_ae": "'OVERREAD'", "peer_host": "'10.0.0.5'",
    "header": "{json}replace(:header, '@', 'P' || i){end}", "revision": "1", "conflict": "FALSE", "removed": "i <= :n - :indexed / 2",
}  # fmt: skip


def fill(ledger: Ledger, studies: int) -> None:
    """Write the rows of so many studies, and let PostgreSQL gather what autovacuum would; SQLite has no statistics, as on a site."""
    if studies < 2 * INDEXED:
        raise SystemExit(f"at least {2 * INDEXED} studies, please")
    values = {
        "n": studies, "step": STEP_S, "now": time.time() - 60, "indexed": INDEXED, "header": json.dumps(HEADER), "decline": DECLINE,
        "evidence": json.dumps(EVIDENCE), "uids": json.dumps({"image": [f"@.1.{number}" for number in range(1, 101)]}),
    }  # fmt: skip
    engine = _engine(ledger)
    with engine.begin() as connection:
        _prepare(ledger, connection)
    for table, where, columns in STATEMENTS:
        into = f"INSERT INTO {table} ({', '.join(columns)}) WITH {_numbers(ledger)} SELECT {', '.join(columns.values())}"
        _insert(ledger, engine, f"{into} FROM n WHERE {where}", values)
    few = _numbers(ledger, first=":n - :indexed + 1")
    three = "(SELECT 1 AS s UNION ALL SELECT 2 UNION ALL SELECT 3) three ON s <= 1 + i % 3"
    hundred = "(SELECT i - :n + :indexed AS m FROM n WHERE i <= :n - :indexed + 100) hundred ON m <= 60 + 10 * (n.i % 5)"
    rows = f"(SELECT n.i, s, m FROM n JOIN {three} JOIN {hundred}) every"
    _insert(
        ledger,
        engine,
        f"INSERT INTO instances ({', '.join(INSTANCES)}) WITH {few} SELECT {', '.join(INSTANCES.values())} FROM {rows}",
        values,
    )
    if not ledger.sqlite:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("SELECT setval(pg_get_serial_sequence('revisions', 'revision_id'), :n)"), {"n": studies})
            connection.execute(sa.text("VACUUM ANALYZE"))  # what autovacuum does
    engine.dispose()


def _engine(ledger: Ledger) -> sa.Engine:
    """Give connections that write in bulk: not durable, a large cache. What is measured later opens its own."""
    if not ledger.sqlite:
        return sa.create_engine(ledger.engine.url)
    engine = sa.create_engine(f"sqlite:///{ledger.data_dir / 'ledger.sqlite'}")

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        for pragma in ("synchronous=OFF", "cache_size=-1500000", "temp_store=MEMORY", "wal_autocheckpoint=100000"):
            connection.execute(f"PRAGMA {pragma}").close()
        connection.create_function("md5", 1, lambda text: hashlib.md5(str(text).encode()).hexdigest(), deterministic=True)  # noqa: S324
        connection.create_function("key_of", 1, removal.patient_key, deterministic=True)

    return engine


def _numbers(ledger: Ledger, first: str = "1") -> str:
    if ledger.sqlite:
        return f"RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < :n)"
    return f"n(i) AS (SELECT generate_series({first}, :n))"


def _prepare(ledger: Ledger, connection: Connection) -> None:
    """Teach PostgreSQL the one function that it lacks."""
    if not ledger.sqlite:
        body = "SELECT substr(encode(sha256(convert_to($1, 'UTF8')), 'hex'), 1, 32)"
        connection.execute(sa.text(f"CREATE FUNCTION key_of(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ {body} $$"))


def _insert(ledger: Ledger, engine: sa.Engine, statement: str, values: dict[str, Any]) -> None:
    begin, end = ("", "") if ledger.sqlite else ("CAST(", " AS json)")
    words = statement.replace("{json}", begin).replace("{end}", end).replace("{{}}", "{}")
    # Numbers are written out: of a bound one PostgreSQL would have to guess the type.
    words = re.sub(r":(n|indexed|step|now)\b", lambda found: repr(values[found[1]]), words)
    texts = {name: value for name, value in values.items() if isinstance(value, str) and f":{name}" in words}
    with engine.begin() as connection:
        connection.execute(sa.text(words), texts)


def size_bytes(ledger: Ledger) -> int:
    """Give how large the ledger is on the disk."""
    if ledger.sqlite:
        return sum(path.stat().st_size for path in ledger.data_dir.glob("ledger.sqlite*"))
    with ledger.reading() as connection:
        return int(connection.execute(sa.text("SELECT pg_database_size(current_database())")).scalar_one())


def study_uid(number: int) -> str:
    """Give the UID of a study."""
    return f"1.2.840.113619.{number * 7919 % 1000003}.{number}"


def accession(number: int) -> str:
    """Give the accession number of a study."""
    return f"A{number}"


def job_id(number: int) -> str:
    """Give the id of a study's job; of one in five there is none."""
    return hashlib.md5(f"job{number}".encode()).hexdigest() + hashlib.md5(f"{number}x".encode()).hexdigest()  # noqa: S324
