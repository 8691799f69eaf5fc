"""Which profiles a job is written in, and which report each form of it replaces: by the destinations, never by chance."""

from __future__ import annotations

from typing import Any

from node import outbox
from node.settings import Settings
from node.study import Job, JobState, Mode, Stage

PEERS = {"a": "ohif", "b": "basic", "c": None, "d": "mine"}


def settings(**peers: str | None) -> Settings:
    """Give a site with peers of these profiles."""
    return Settings.model_validate(
        {
            "profiles": [{"name": "mine", "base": "ohif", "fallback": "editable"}],
            "peers": [
                {"name": name, "ae_title": name.upper(), "host": "127.0.0.1", "port": 104} | ({"profile": profile} if profile else {})
                for name, profile in (peers or PEERS).items()
            ],
        }
    )


def job(*destinations: str, mode: Mode = Mode.LIVE, predecessor: dict[str, Any] | None = None) -> Job:
    """Give a job to these destinations."""
    return Job(
        job_id="j", generation=1, study_instance_uid="1.2", revision=3, model="m", version="1", card_digest="d", inputs={}, mode=mode,
        priority=5, destinations=destinations, state=JobState.RUNNING, stage=Stage.COMPOSE, attempt=1, fence=1, created_at=1.0,
        predecessor=predecessor,
    )  # fmt: skip


def report(profile: str, of_revision: int, uid: str) -> dict[str, Any]:
    """Give a report that somebody has."""
    return {"profile": profile, "of_revision": of_revision, "sop_class_uid": "s", "sop_instance_uid": uid, "series_instance_uid": "e"}


def replaced(held: dict[str, dict[str, Any]], profile: str, *destinations: str) -> tuple[int, str]:
    """Give revision and UID of what a job to these destinations replaces in that profile."""
    newest = max(held.values(), key=lambda entry: int(entry["of_revision"]))
    told = outbox.predecessor(settings(), job(*destinations, predecessor={"revision": 3, "newest": newest, "held": held}), profile)
    assert told is not None
    assert told["revision"] == 3
    return told["of_revision"], told["sop_instance_uid"]


def test_each_destination_has_a_chain_of_profiles() -> None:
    """Its own first, then what that falls back to; one that names none takes the default, and so does one that is no peer any more."""
    chains = outbox.chains(settings(), job("b", "d", "c", "gone"))
    assert chains == {"b": ("basic",), "d": ("mine", "editable", "basic"), "c": ("ohif", "basic"), "gone": ("ohif", "basic")}


def test_what_is_sent_nowhere_is_written_in_the_default_profile() -> None:
    """Shadow, and a job without a destination."""
    assert outbox.chains(settings(), job("b", mode=Mode.SHADOW)) == {None: ("ohif", "basic")}
    assert outbox.chains(settings(), job()) == {None: ("ohif", "basic")}


def test_each_form_replaces_the_report_in_its_own_form() -> None:
    """The archive that got the first as `basic` sees the second name that one; the other its own."""
    held = {"a": report("ohif", 1, "of a"), "b": report("basic", 1, "of b")}
    assert replaced(held, "basic", "a", "b") == (1, "of b")
    assert replaced(held, "ohif", "a", "b") == (1, "of a")


def test_a_destination_that_refused_before_sees_the_report_it_has() -> None:
    """It is offered `ohif` again and falls back again: both forms name what it got, and the other's newer report counts for neither."""
    held = {"a": report("basic", 1, "of a"), "b": report("basic", 2, "of b")}
    assert replaced(held, "ohif", "a") == (1, "of a")
    assert replaced(held, "basic", "a") == (1, "of a")


def test_a_destination_whose_profile_was_changed_sees_the_report_it_has() -> None:
    """In whichever form that was."""
    assert replaced({"b": report("ohif", 1, "of b")}, "basic", "b") == (1, "of b")


def test_a_destination_that_has_none_sees_the_newest_that_anybody_has() -> None:
    """Better than to hide that there was one."""
    held = {"a": report("ohif", 1, "of a"), "x": report("ohif", 2, "of x")}
    assert replaced(held, "basic", "b") == (2, "of x")


def test_the_chain_of_fallbacks_counts_to_its_end() -> None:
    """From mine over editable to basic: the last one replaces what the first one's destination has."""
    assert settings().chain_of("d") == ("mine", "editable", "basic")
    held = {"d": report("mine", 1, "of d"), "x": report("basic", 2, "of x")}
    assert replaced(held, "basic", "d") == (1, "of d")


def test_a_first_result_replaces_nothing() -> None:
    """No earlier report, no predecessor."""
    assert outbox.predecessor(settings(), job("a"), "ohif") is None
