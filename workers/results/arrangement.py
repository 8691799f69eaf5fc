"""Which SEG holds which segment: one holds them all, unless the form cannot or the profile does not want it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from node.errors import Refused
from workers.results.request import ComposeRequest
from workers.results.segments import Mask, Segment, mask


def binary(request: ComposeRequest) -> bool:
    """Tell BINARY from LABELMAP.

    BINARY where a frame ends on a byte. Where it does not, OHIF 3.13 shows BINARY scrambled or hangs, so LABELMAP, unless
    the profile insists.
    """
    rows, columns = request.prediction.grid.shape[1:]
    asked = request.profile.seg_type
    return asked == "binary" or (asked == "auto" and rows * columns % 8 == 0)


def arranged(request: ComposeRequest, segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Give every segment that has voxels its SEG, and its number there; the order stays.

    A LABELMAP holds no two segments that overlap, and of a BINARY that does OHIF 3.13 loses voxels: each goes into the first SEG
    in which it fits, organs and findings that cannot overlap first, unless the profile insists on BINARY. Raises Refused where
    one segment alone has more frames than the profile allows.
    """
    marked = [segment for segment in segments if request.profile.wants("seg") and not segment.boxed]
    together = [marked] if request.profile.seg_type == "binary" else _apart(request, marked)
    placed: dict[str, Segment] = {}
    for index, members in enumerate(part for group in together for part in _split(request, group)):
        placed |= {segment.tracking_uid: replace(segment, seg=index, number=number) for number, segment in enumerate(members, start=1)}
    return tuple(placed.get(segment.tracking_uid, segment) for segment in segments)


def _apart(request: ComposeRequest, segments: Sequence[Segment]) -> list[list[Segment]]:
    """Give sets of segments that share no voxel."""
    masks = request.prediction.masks
    taken: list[Mask] = []
    chosen: dict[str, int] = {}
    for segment in sorted(segments, key=lambda entry: entry.overlapping):
        if not masks:
            chosen[segment.tracking_uid] = 0
            continue
        voxels, slices = mask(request, segment), list(segment.slices)
        free = (index for index, occupied in enumerate(taken) if not (occupied[slices] & voxels[slices]).any())
        index = next(free, len(taken)) if segment.overlapping or not taken else 0
        if index == len(taken):
            taken.append(voxels.copy())
        else:
            taken[index] |= voxels
        chosen[segment.tracking_uid] = index
    return [
        [segment for segment in segments if chosen[segment.tracking_uid] == index] for index in range(max(chosen.values(), default=-1) + 1)
    ]


def _split(request: ComposeRequest, segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Cut a list where an object would have more segments or frames than the profile allows."""
    profile, members, frames = request.profile, list[Segment](), 0
    covered: set[int] = set()
    for segment in segments:
        slices = set(range(len(request.sources))) if profile.seg_empty_frames else set(segment.slices)
        if profile.frames_max is not None and len(slices) > profile.frames_max:
            raise Refused(
                f"{segment.name} takes {len(slices)} frames, and the destination takes no object of more than {profile.frames_max}"
            )
        more = frames + len(slices) if binary(request) else len(covered | slices)
        full = profile.seg_segments_max is not None and len(members) >= profile.seg_segments_max
        if members and (full or (profile.frames_max is not None and more > profile.frames_max)):
            yield members
            members, frames, covered = [], 0, set()
        members.append(segment)
        frames += len(slices)
        covered |= slices
    if members:
        yield members
