"""The Celery producer: one message is a stage's name and an id, never pixels, never patient data.

Celery is transport, never the record: a message may be lost or come twice, the ledger decides.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import redis
from celery import Celery
from kombu.exceptions import KombuError

from node.errors import Misconfigured, Retryable
from node.settings import Settings
from node.study import Stage

QUEUE_OF = {Stage.PREPARE: "cpu", Stage.INFER: "gpu", Stage.COMPOSE: "cpu", Stage.DELIVER: "io", Stage.RECOMPOSE: "cpu", Stage.TELL: "cpu"}
# A socket's path has 108 bytes (sun_path, unix(7)); some systems have 104.
SOCKET_PATH_MAX_BYTES = 100
CONNECT_S = 2.0
ANSWER_S = 5.0
_Answer = TypeVar("_Answer")


class BrokerAway(Retryable):
    """The broker cannot be reached; what is due stays due."""


class Broker:
    """Sends stage messages; connects when first used, and again after the broker was away."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._app = Celery("overread-node", broker=broker_url(settings), set_as_current=False)
        self._app.conf.update(
            task_serializer="json",
            accept_content=["json"],
            task_ignore_result=True,
            result_backend=None,
            broker_transport_options={"socket_connect_timeout": CONNECT_S, "socket_timeout": ANSWER_S, "socket_keepalive": True},
        )

    def submit(self, stage: Stage, ident: str, priority: int) -> None:
        """Send one message: the job's id, or the delivery's for `deliver` and `recompose`. Priority 0 is the highest.

        Idempotent: a message too many finds no claim. Raises BrokerAway, a Retryable.
        """
        queue = QUEUE_OF[stage]
        once = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
        try:
            self._app.send_task(
                f"overread.{stage}", args=[ident], queue=queue, priority=priority, retry=True, retry_policy=once, ignore_result=True
            )
        except (KombuError, redis.RedisError, OSError) as error:
            raise BrokerAway(f"the broker does not take messages: {type(error).__name__}") from error

    def incarnation(self) -> str:
        """Give the broker's run id: another one means that it was started anew and may have forgotten messages."""
        information: Any = _ask(self._settings, lambda client: client.info("server"))
        return str(information["run_id"])

    def close(self) -> None:
        """Give the connections back."""
        self._app.close()


def broker_url(settings: Settings) -> str:
    """Give the URL for Celery; "embedded" is the socket of the node's own Valkey."""
    url = settings.broker.url.get_secret_value()
    return f"redis+socket://{socket_path(settings)}" if url == "embedded" else url


def socket_path(settings: Settings) -> Path:
    """Give the embedded broker's socket: in the data folder, or where its path would be too long in a folder of our own.

    Whoever starts the broker makes the folder, with mode 0700: any other user could queue tasks else.
    """
    near = settings.data_dir.absolute() / "run" / "broker.sock"
    if len(os.fsencode(near)) <= SOCKET_PATH_MAX_BYTES:
        return near
    name = hashlib.sha256(os.fsencode(settings.data_dir.absolute())).hexdigest()[:12]
    # Not TMPDIR: every process of the node must find the same place, whatever its environment.
    return Path("/tmp") / f"overread-{os.getuid()}-{name}" / "broker.sock"  # noqa: S108 -- its starter makes the folder 0700


def ping(settings: Settings) -> float:
    """Ask the broker for an answer and give the seconds it took; raises Retryable, or Misconfigured on a wrong password."""
    start = time.perf_counter()
    _ask(settings, lambda client: client.ping())
    return time.perf_counter() - start


def _ask(settings: Settings, question: Callable[[Any], _Answer]) -> _Answer:
    url = broker_url(settings).replace("redis+socket://", "unix://", 1)
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=CONNECT_S, socket_timeout=ANSWER_S) as client:
            return question(client)
    except (redis.AuthenticationError, ValueError) as error:
        raise Misconfigured(f"[broker] url is refused by the broker ({type(error).__name__}); check its user and password") from error
    except (redis.RedisError, OSError) as error:
        raise BrokerAway(f"the broker does not answer: {type(error).__name__}; is it running, and is [broker] url right?") from error
