"""One UID never stands for two contents: whatever changes an object's bytes changes its UIDs too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from node.profiles import Profile
from node.settings import ResultsSection
from tests.workers.results import scans
from workers.results import ComposeRequest, compose

BASE: dict[str, Any] = {"name": "base", "objects": ("seg", "sr")}
# A value besides the default for every key of a profile that may change an object.
PROFILE_KEYS: Mapping[str, Any] = {
    "objects": ("sr",),
    "seg_type": "labelmap",
    "seg_syntax": "rle",
    "pm_syntax": "rle",
    "seg_empty_frames": True,
    "seg_segments_max": 1,
    "frames_max": 8,
    "sr_form": "text",
    "sr_class": "comprehensive",
    "sc_pages": ("key-images",),
    "description": "{message} {model}",
    "series_numbers": {"sr": 77},
}
WITHOUT_EFFECT = {"name": "other", "fallback": "basic", "send_failures": True}
SETTINGS_KEYS: Mapping[str, Any] = {
    "uid_root": "1.2.826.0.1.3680043.10.1234",
    "installation_id": "another",
    "institution": "General",
    "series_numbers": {"seg": 88},
}


def plain() -> ComposeRequest:
    """Give a small analysis with organs and a nodule under the plain profile."""
    return replace(scans.request(scan=scans.Scan(shape=(6, 24, 32)), nodules=1), profile=Profile(**BASE))


def written(request: ComposeRequest) -> dict[str, bytes]:
    """Give the bytes by UID."""
    return {entry.sop_instance_uid: entry.dataset_bytes for entry in compose(request).objects}


def test_every_key_of_a_profile_and_of_the_settings_is_tried() -> None:
    """A key that is added later must be added here, or say that it changes nothing."""
    assert set(Profile.model_fields) == set(PROFILE_KEYS) | set(WITHOUT_EFFECT)
    assert set(ResultsSection.model_fields) == {*SETTINGS_KEYS, "profile"}


@pytest.mark.timeout(600)
def test_no_two_forms_of_an_analysis_share_a_uid_unless_their_bytes_are_the_same() -> None:
    """Each key of a profile, each setting, and a new generation, job or revision, against each other."""
    request = plain()
    forms = [written(request)]
    forms += [written(replace(request, profile=Profile(**BASE | {key: value}))) for key, value in PROFILE_KEYS.items()]
    forms += [written(replace(request, settings=ResultsSection(**{key: value}))) for key, value in SETTINGS_KEYS.items()]
    forms.append(written(replace(request, job=replace(request.job, generation=2))))
    forms.append(written(replace(request, job=replace(request.job, job_id="a" * 64))))
    for one, other in combinations(forms, 2):
        assert not set(one) & set(other)


def test_what_only_names_a_profile_changes_no_byte() -> None:
    """A profile that is renamed, or falls back elsewhere, sends the same objects: no archive gets them twice."""
    request = plain()
    assert written(replace(request, profile=Profile(**BASE | WITHOUT_EFFECT))) == written(request)
