"""Viewer profiles: which objects a destination gets, and in which form its viewer shows them.

A profile is a destination's; every object of an analysis is made for one profile, whose digest is part of its UIDs.
Ref: docs/results.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Kind = Literal["seg", "pm", "rtstruct", "gsps", "sc", "kos", "sr"]
ORDER: tuple[Kind, ...] = get_args(Kind)
"""Sending order: what is referred to comes before what refers to it, the report last."""

SERIES_NUMBERS: Mapping[Kind, int] = {"seg": 9001, "sr": 9002, "gsps": 9003, "sc": 9004, "kos": 9005, "pm": 9006, "rtstruct": 9007}
SeriesNumber = Annotated[int, Field(ge=1, le=2147483647)]
ProfileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]


class Profile(BaseModel):
    """What one kind of viewer shows. A key that is left out is that of `base`.

    objects           kinds wanted; each is written where the analysis has something to put in it, the report always
    seg_type          auto: BINARY where a frame ends on a byte, else LABELMAP, since OHIF shows such a BINARY scrambled
    seg_syntax        of a LABELMAP; BINARY is never compressed
    pm_syntax         of a parametric map
    seg_empty_frames  also frames without a voxel
    seg_segments_max  more segments than this go into several SEG series; None: never split
    frames_max        a SEG or a parametric map of more frames is split; None: never
    sr_form           measurements: TID 1500 with a pair of groups a segment; editable: TID 1501 groups that hydrate into
                      OHIF's own tools; text: a report in words
    sc_pages          summary: one page of key images, findings and model; key-images: each key image with its outlines
    description       pattern of Series Description with {message}, {model}, {version}, {kind}; empty: ours
    series_numbers    kind -> Series Number, over those of [results]
    send_failures     also send a report that an analysis failed
    fallback          the profile under which everything is written again where the destination refuses an object's class
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ProfileName
    objects: tuple[Kind, ...] = ("seg", "gsps", "sc", "sr")
    seg_type: Literal["auto", "binary", "labelmap"] = "auto"
    seg_syntax: Literal["explicit", "rle", "jpeg-ls"] = "explicit"
    pm_syntax: Literal["explicit", "rle", "jpeg-ls"] = "explicit"
    seg_empty_frames: bool = False
    seg_segments_max: int | None = Field(default=None, ge=1)
    frames_max: int | None = Field(default=None, ge=1)
    sr_form: Literal["measurements", "editable", "text"] = "measurements"
    sr_class: Literal["comprehensive-3d", "comprehensive"] = "comprehensive-3d"
    sc_pages: tuple[Literal["summary", "key-images"], ...] = ("summary",)
    description: Annotated[str, StringConstraints(max_length=64, pattern=r"^[\x20-\x7e]*$")] = ""
    series_numbers: Mapping[Kind, SeriesNumber] = Field(default_factory=dict)
    send_failures: bool = False
    fallback: ProfileName | None = None

    @model_validator(mode="before")
    @classmethod
    def _start_from_base(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or "base" not in given:
            return given
        base = BUILT_IN.get(str(given["base"]))
        if base is None:
            raise ValueError(f"no profile {given['base']!r} to start from; base is one of {', '.join(BUILT_IN)}")
        return base.model_dump() | {key: value for key, value in given.items() if key != "base"}

    @model_validator(mode="after")
    def _is_whole(self) -> Profile:
        if "sr" not in self.objects:
            raise ValueError('objects must name "sr": a result always says in words what was analysed')
        if len(set(self.objects)) != len(self.objects):
            raise ValueError("objects names a kind twice")
        try:
            self.description.format(message="", model="", version="", kind="")
        except (KeyError, IndexError, ValueError):
            raise ValueError("description may hold {message}, {model}, {version} and {kind}, and no other braces") from None
        if self.fallback == self.name:
            raise ValueError("a profile cannot be its own fallback")
        return self

    def wants(self, kind: Kind) -> bool:
        """Tell whether the destination takes this kind of object."""
        return kind in self.objects


BUILT_IN: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(name="ohif", fallback="basic"),
        Profile(name="editable", sr_form="editable", fallback="basic"),
        Profile(name="orthanc-stone", seg_type="binary", fallback="basic"),
        Profile(name="basic", objects=("gsps", "sc", "sr"), sr_form="text", sr_class="comprehensive", sc_pages=("summary", "key-images")),
    )
}


def known(own: tuple[Profile, ...]) -> dict[str, Profile]:
    """Give every profile by name, the site's own over ours; raises ValueError where a name or a fallback is wrong."""
    names = [profile.name for profile in own]
    if len(set(names)) != len(names):
        raise ValueError("two profiles share a name")
    found = dict(BUILT_IN) | {profile.name: profile for profile in own}
    for profile in found.values():
        seen = {profile.name}
        while profile.fallback is not None:
            if profile.fallback not in found:
                raise ValueError(f"the profile {profile.name!r} falls back to {profile.fallback!r}, which is none")
            profile = found[profile.fallback]  # noqa: PLW2901 -- the chain is followed
            if profile.name in seen:
                raise ValueError(f"the profiles {', '.join(sorted(seen))} fall back to each other for ever")
            seen.add(profile.name)
    return found
