"""Viewer profiles as an administrator writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from node import profiles, settings
from node.errors import Misconfigured
from node.profiles import BUILT_IN


def load(tmp_path: Path, text: str) -> settings.Settings:
    """Read settings from text."""
    path = tmp_path / "overread.toml"
    path.write_text(text)
    return settings.load(path, {})


def test_a_profile_takes_from_its_base_what_it_does_not_say(tmp_path: Path) -> None:
    """An own profile changes two keys of a built-in one and keeps the others."""
    read = load(tmp_path, '[[profiles]]\nname = "ward"\nbase = "basic"\nsr_form = "measurements"\nseries_numbers = { sr = 77 }\n')
    ward = read.profile("ward")
    assert (ward.objects, ward.sr_form, ward.series_numbers["sr"]) == (BUILT_IN["basic"].objects, "measurements", 77)


def test_a_peer_gets_its_own_profile_and_the_others_the_default(tmp_path: Path) -> None:
    """Naming a profile at a peer says what that destination gets."""
    peer = '[[peers]]\nname = "old"\nae_title = "OLD"\nhost = "h"\nport = 1\nprofile = "basic"\n'
    read = load(tmp_path, '[results]\nprofile = "editable"\n' + peer)
    assert read.profile(read.peer("old").profile).name == "basic"
    assert read.profile().name == "editable"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[profiles]]\nname = "a"\nobjects = ["seg"]\n', "says in words"),
        ('[[profiles]]\nname = "a"\nobjects = ["sr", "sr"]\n', "twice"),
        ('[[profiles]]\nname = "a"\nbase = "none"\n', "no profile 'none' to start from"),
        ('[[profiles]]\nname = "a"\nfallback = "b"\n', "falls back to 'b'"),
        ('[[profiles]]\nname = "a"\nfallback = "a"\n', "its own fallback"),
        ('[[profiles]]\nname = "a"\nfallback = "b"\n[[profiles]]\nname = "b"\nfallback = "a"\n', "for ever"),
        ('[[profiles]]\nname = "a"\n[[profiles]]\nname = "a"\n', "share a name"),
        ('[[profiles]]\nname = "a"\ndescription = "{patient}"\n', "no other braces"),
        ('[[profiles]]\nname = "a"\ncolour = "red"\n', "colour"),
        ('[results]\nprofile = "b"\n', "no viewer profile is called 'b'"),
    ],
)
def test_a_wrong_profile_is_refused_at_start_with_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    """A fault in [[profiles]] stops the start, in words."""
    with pytest.raises(Misconfigured, match=said):
        load(tmp_path, text)


def test_every_built_in_profile_falls_back_to_what_any_archive_takes() -> None:
    """Each chain of fallbacks ends at a profile without a SEG."""
    for profile in profiles.known(()).values():
        last = profile
        while last.fallback:
            last = BUILT_IN[last.fallback]
        assert not last.wants("seg")
