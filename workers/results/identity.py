"""UIDs that depend on nothing but what they name: the same analysis written twice has the same UIDs."""

from __future__ import annotations

import hashlib
import json

from node.errors import Misconfigured
from node.profiles import Profile
from node.settings import ResultsSection
from workers.results.request import ComposeRequest, Origin

# Changes whenever the form of an object changes, so that two forms of one analysis never share a UID.
FORM = "4"
UID_CHARACTERS = 64  # Ref: PS3.5 9.1


def uid(root: str | None, *parts: str) -> str:
    """Give a UID made of the parts' SHA-256: 2.25.<UUID> (version 8), or under the site's root.

    Example: uid(None, "a") == uid(None, "a") != uid(None, "b"); ("ab", "c") and ("a", "bc") differ too.
    Ref: PS3.5 B.2; RFC 9562 5.8
    """
    number = int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:16], "big")
    if root is None:
        number = number & ~(0xF << 76) | (0x8 << 76)  # version 8: made by a rule of our own
        number = number & ~(0x3 << 62) | (0x2 << 62)  # RFC variant
        return f"2.25.{number}"
    room = UID_CHARACTERS - len(root) - 1
    if room < 20:
        raise Misconfigured(f"results.uid_root has {len(root)} characters; at most 43 leave room for our own part")
    return f"{root}.{number % 10 ** min(room, 38)}"


def profile_digest(settings: ResultsSection, profile: Profile) -> str:
    """Give the digest of everything in settings and profile that changes an object, and of our form; names change none."""
    told = {
        "form": FORM,
        "settings": settings.model_dump(mode="json", exclude={"profile"}),
        "profile": profile.model_dump(mode="json", exclude={"name", "fallback", "send_failures"}),
    }
    canonical = json.dumps(told, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def object_uid(request: Origin, kind: str, part: str) -> str:
    """Give the UID of one part ("instance", "series", "dimension") of the object of that kind; of a second one "instance-2".

    The job id covers study, images, model, version and card; a forced re-run is a new generation.
    """
    job = request.job
    digest = profile_digest(request.settings, request.profile)
    return uid(request.settings.uid_root, "object", job.job_id, str(job.generation), digest, kind, part)


def tracking_uid(request: ComposeRequest, label: int, number: int) -> str:
    """Give the UID by which one finding (or organ, number 0) is followed: the same in SEG, SR and every re-run.

    The series is part of it, because two series of one study each have their own first nodule.
    """
    first = request.sources[0]
    model = request.card.card.model
    place = (str(first.StudyInstanceUID), str(first.SeriesInstanceUID))
    return uid(request.settings.uid_root, "tracking", *place, model.name, model.version, str(label), str(number))


def device_uid(settings: ResultsSection) -> str:
    """Give the UID of this installation as an observer."""
    return uid(settings.uid_root, "device", settings.installation_id)
