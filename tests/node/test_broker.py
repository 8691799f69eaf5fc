"""The Celery producer against a real Valkey."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node import broker
from node.errors import Retryable
from node.settings import Settings
from node.study import Stage
from tests.node.brokers import settings_in, valkey


def test_a_message_holds_a_stage_and_an_id_only(tmp_path: Path) -> None:
    """What goes over the broker is the task's name and one id, as JSON, in the stage's queue."""
    settings = settings_in(tmp_path)
    with valkey(settings) as client:
        sender = broker.Broker(settings)
        for stage, queue in ((Stage.PREPARE, "cpu"), (Stage.INFER, "gpu"), (Stage.COMPOSE, "cpu"), (Stage.DELIVER, "io")):
            sender.submit(stage, f"id-of-{stage}", 0)
            (raw,) = client.lrange(queue, 0, -1)
            message = json.loads(raw)
            assert message["content-type"] == "application/json"
            assert message["headers"]["task"] == f"overread.{stage}"
            assert message["headers"]["argsrepr"] == f"['id-of-{stage}']"
            client.delete(queue)
        sender.close()


def test_a_stat_job_waits_in_a_queue_before_the_others(tmp_path: Path) -> None:
    """Priority 0 lies in the queue that consumers look at first, low ones in a later one."""
    settings = settings_in(tmp_path)
    with valkey(settings) as client:
        sender = broker.Broker(settings)
        for priority in (9, 5, 0):
            sender.submit(Stage.PREPARE, f"p{priority}", priority)
        first: list[bytes] = client.lrange("cpu", 0, -1)  # type: ignore[assignment]
        assert [json.loads(raw)["headers"]["argsrepr"] for raw in first] == ["['p0']"]
        assert client.llen("cpu\x06\x163") == 1
        assert client.llen("cpu\x06\x169") == 1
        sender.close()


def test_an_outage_is_retryable_and_ends_by_itself(tmp_path: Path) -> None:
    """While the broker is away submit says so; the same producer works again as soon as it is back."""
    settings = settings_in(tmp_path)
    sender = broker.Broker(settings)
    with pytest.raises(Retryable):
        sender.submit(Stage.PREPARE, "a", 5)
    with pytest.raises(Retryable):
        broker.ping(settings)
    with valkey(settings):
        sender.submit(Stage.PREPARE, "b", 5)
        first = sender.incarnation()
    with pytest.raises(Retryable):
        sender.submit(Stage.PREPARE, "c", 5)
    with valkey(settings) as client:
        sender.submit(Stage.PREPARE, "d", 0)
        assert client.llen("cpu") == 1
        assert sender.incarnation() != first
    sender.close()


def test_a_deep_data_folder_gets_a_short_socket_of_its_own(tmp_path: Path) -> None:
    """A socket's path is bounded by the system; two deep folders do not share one."""
    near = broker.socket_path(settings_in(Path("/srv/overread")))
    assert near == Path("/srv/overread/run/broker.sock")
    deep, other = (broker.socket_path(settings_in(tmp_path / (letter * 90))) for letter in "ab")
    assert len(bytes(deep)) <= broker.SOCKET_PATH_MAX_BYTES
    assert deep != other
    assert deep.parent.name.startswith("overread-")


def test_a_site_s_own_broker_is_used_as_named() -> None:
    """A URL in the settings is not touched."""
    settings = Settings.model_validate({"broker": {"url": "rediss://:secret@redis.example:6380/1"}})
    assert broker.broker_url(settings) == "rediss://:secret@redis.example:6380/1"
    assert "secret" not in repr(settings)
