"""Routing: which model takes which series, and a reason for every other one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as some
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as quickly

from models.card import Card, ShelvedCard
from node import routing
from node.errors import Misconfigured
from node.settings import Rule, Settings
from node.study import Instance, Job, JobPlan, JobState, Mode, Series, Stage, Study
from tests.node import work

STUDY = "1.2.3"
CT = work.CT
SCOUT = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}


def card(name: str = "chest-ct", inputs: Sequence[dict[str, Any]] | None = None, **accept: Any) -> ShelvedCard:
    """Make a card that takes CT stacks of at least 20 slices, 0.5 to 5 mm apart."""
    chest = {"modality": ["CT"], "slices": [20, 500], "slice_spacing_mm": [0.5, 5.0], "spacing_mm": [0.3, 1.5]} | accept
    lung = {"scheme": "SCT", "value": "39607008", "meaning": "Lung"}
    read = Card.model_validate(
        {
            "schema_version": 1,
            "model": {"name": name, "version": "1.0", "title": "t", "licence": "l", "intended_use": "u", "limits": ["l"]},
            "runtime": {"format": "of-the-tests"},
            "inputs": inputs or [{"role": "image", "reference": True, "accept": chest}],
            "output": {
                "kind": "labels",
                "inverse": "runtime",
                "labels": [{"index": 1, "label": "Lung", "kind": "organ", "category": lung, "type": lung, "cielab": [1, 1, 1]}],
            },
        }
    )
    return ShelvedCard(card=read, folder=Path(), digest="d" * 64)


def study(*series: list[Instance]) -> Study:
    """Make a study of series."""
    made = (
        Series(series_instance_uid=some[0].series_instance_uid, instances=tuple(sorted(some, key=lambda each: each.sop_instance_uid)))
        for some in series
    )
    return Study(study_instance_uid=STUDY, revision=1, series=tuple(sorted(made, key=lambda each: each.series_instance_uid)))


def chest(series: str = "1.2.3.1", count: int = 40, **header: Any) -> list[Instance]:
    """Make a chest CT of slices 2 mm apart."""
    return work.slices(count, series=series, header=header)


def jobs_of(made: Study, *rules: Rule, shelf: ShelvedCard | None = None) -> tuple[JobPlan, ...]:
    """Route with one card and give the jobs."""
    shelf = shelf or card()
    return routing.route(made, {shelf.card.model.name: shelf}, rules, ("archive", "viewer")).jobs


def reason(series: list[Instance], **accept: Any) -> str:
    """Give why the only series of a study is not taken."""
    plan = routing.route(study(series), {"chest-ct": card(**accept)}, (), ())
    assert plan.jobs == ()
    (declined,) = plan.declined
    assert declined.series_instance_uid == series[0].series_instance_uid
    return declined.reason


def test_a_fitting_series_becomes_a_job_with_all_its_slices() -> None:
    """Live, routine, to every destination, when no rule says otherwise."""
    (job,) = jobs_of(study(chest()))
    assert (job.model, job.mode, job.priority, job.destinations) == ("chest-ct", Mode.LIVE, 5, ("archive", "viewer"))
    assert job.inputs["image"] == tuple(sorted(f"1.2.3.1.{number}" for number in range(1, 41)))


@pytest.mark.parametrize(
    ("series", "accept", "expected"),
    [
        (chest(Modality="MR"), {}, "its modality is MR, the model takes CT"),
        (chest(Modality=None), {}, "its modality is not given, the model takes CT"),
        (chest(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), {}, "its images are of type LOCALIZER"),
        (chest(ImageType=["DERIVED", "SECONDARY", "REFORMATTED"]), {}, "its images are of type SECONDARY"),
        (chest(Manufacturer="Overread"), {}, "it is a result of Overread itself"),
        (chest(Modality="SEG"), {}, "it holds segmentations, not images"),
        (chest(Modality="SR"), {}, "it holds structured reports, not images"),
        (chest(Modality="PR"), {}, "it holds presentation states, not images"),
        (chest(Modality="KO"), {}, "it holds key object selections, not images"),
        (chest(Modality="DOC"), {}, "it holds documents, not images"),
        (chest(NumberOfFrames=40), {}, "its images have several frames each and are no enhanced CT, MR or PET"),
        (chest(count=1), {}, "it has 1 slice, the model needs at least 20"),
        (chest(count=12), {}, "it has 12 slices, the model needs at least 20"),
        (chest(count=40), {"slices": [1, 30]}, "it has 40 slices, the model takes at most 30"),
        (chest(), {"slice_spacing_mm": [0.5, 1.5]}, "its slice spacing is 2 mm, the model takes 0.5 to 1.5 mm"),
        (chest(PixelSpacing=[0.7, 2.5]), {}, "its pixel spacing is 2.5 mm, the model takes 0.3 to 1.5 mm"),
        (chest(PixelSpacing=None), {}, "its pixel spacing is not given"),
        (chest(ImagePositionPatient=None), {}, "its slice spacing is not given"),
        (chest(), {"extent_mm": [150.0, 900.0]}, "its extent along the slices is 80 mm, the model takes 150 to 900 mm"),
        (chest(BodyPartExamined="HEAD"), {"body_part": ["CHEST", "THORAX"]}, "its body part is HEAD, the model takes CHEST or THORAX"),
        (chest(SeriesDescription="Abdomen 2mm"), {"description_none": ["abdomen"]}, "its description contains 'abdomen'"),
        (chest(SeriesDescription="x"), {"description_any": ["lung", "chest"]}, "its description contains none of lung or chest"),
        (
            chest(),
            {"sop_classes": ["1.2.840.10008.5.1.4.1.1.4"]},
            f"its objects are of storage class {CT}, which the model does not take",
        ),
    ],
)
def test_a_series_that_does_not_fit_gets_a_sentence(series: list[Instance], accept: dict[str, Any], expected: str) -> None:
    """A technologist reads what is wrong with the series, in numbers."""
    assert reason(series, **accept) == expected


def test_an_object_without_a_modality_is_known_by_its_class() -> None:
    """A structured report whose device left the modality out is no image series."""
    one = work.image("1.2.3.1.1", header={"Modality": None})
    fields = {name: getattr(one, name) for name in Instance.__dataclass_fields__}
    report = Instance(**fields | {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.33"})
    assert reason([report]) == "it holds structured reports, not images"


@pytest.mark.parametrize("part", ["chest", "CHEST", "Chest", None, ""])
def test_body_parts_compare_without_case_and_absent_ones_are_accepted(part: str | None) -> None:
    """Many devices leave the body part out."""
    assert jobs_of(study(chest(BodyPartExamined=part)), shelf=card(body_part=["Chest"]))


def test_the_description_falls_back_to_the_protocol_name() -> None:
    """A series without a description is judged by its protocol's name."""
    assert reason(chest(ProtocolName="HEAD routine"), description_none=["head"]) == "its description contains 'head'"


_ODD = some.one_of(some.none(), some.text(max_size=8), some.floats(), some.integers(), some.booleans())
_KEYS = (
    "Modality", "Manufacturer", "ImageType", "SeriesDescription", "ProtocolName", "BodyPartExamined", "NumberOfFrames", "PixelSpacing",
    "ImagePositionPatient", "ImageOrientationPatient", "SeriesNumber",
)  # fmt: skip


@quickly(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(header=some.dictionaries(some.sampled_from(_KEYS), some.one_of(_ODD, some.lists(_ODD, max_size=6)), max_size=8))
def test_no_header_breaks_routing(header: dict[str, Any]) -> None:
    """A header is whatever a device wrote: every series ends in a job or a reason."""
    made = study([*chest(count=25), work.image("1.2.3.1.99", header=header)], [work.image("1.2.3.2.1", series="1.2.3.2", header=header)])
    plan = routing.route(made, {"chest-ct": card(extent_mm=[1, 900], body_part=["CHEST"], description_none=["x"])}, (), ())
    assert len(plan.jobs) + len(plan.declined) == 2


def test_a_localizer_inside_the_series_is_left_out() -> None:
    """Scanners that file the scout with the slices do not lose the study its analysis."""
    scout = work.image(
        "1.2.3.1.99", header={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
    )
    (job,) = jobs_of(study([*chest(), scout]))
    assert len(job.inputs["image"]) == 40
    assert scout.sop_instance_uid not in job.inputs["image"]


def test_slices_are_measured_along_the_normal_of_an_oblique_stack() -> None:
    """Positions 3 mm apart along an axis tilted by 60 degrees lie 3 mm apart, not 1.5."""
    tilted = [
        work.image(
            f"1.2.3.1.{n}",
            header={
                "ImageOrientationPatient": [1, 0, 0, 0, 0.5, -(0.75**0.5)],
                "ImagePositionPatient": [0, 3 * n * 0.75**0.5, 3 * n * 0.5],
            },
        )
        for n in range(30)
    ]
    assert reason(tilted, slice_spacing_mm=[0.5, 2.0]) == "its slice spacing is 3 mm, the model takes 0.5 to 2 mm"
    assert jobs_of(study(tilted))


def test_two_images_at_one_place_count_as_one_slice() -> None:
    """Twenty places with two images each are twenty slices; prepare then says why they cannot be one volume."""
    twice = chest(count=12) + [
        work.image(f"1.2.3.1.{n + 100}", header={"ImagePositionPatient": [-180.0, -180.0, 2.0 * n]}) for n in range(1, 13)
    ]
    assert reason(twice) == "it has 12 slices, the model needs at least 20"


def test_of_several_fitting_series_the_one_with_most_slices_is_taken() -> None:
    """The others are told which one, and why."""
    plan = routing.route(study(chest("1.2.3.1", 30, SeriesNumber=2), chest("1.2.3.2", 60, SeriesNumber=3)), {"chest-ct": card()}, (), ())
    (job,) = plan.jobs
    assert job.inputs["image"][0].startswith("1.2.3.2.")
    (declined,) = plan.declined
    assert declined.series_instance_uid == "1.2.3.1"
    assert declined.reason == "series 3 suits the model better: 60 slices, 2 mm apart, against 30 here"


def test_the_choice_does_not_depend_on_order() -> None:
    """Equal candidates: the same one every time."""
    one, two = chest("1.2.3.1"), chest("1.2.3.2")
    assert jobs_of(study(one, two)) == jobs_of(study(two, one))


def test_every_series_and_model_has_a_job_or_a_reason() -> None:
    """Nothing is passed over in silence."""
    made = study(chest("1.2.3.1"), chest("1.2.3.2", 3), chest("1.2.3.3", Modality="MR"), chest("1.2.3.4", Modality="SR"))
    cards = {"chest-ct": card(), "brain-mr": card("brain-mr", modality=["MR"])}
    plan = routing.route(made, cards, (), ())
    told = {(entry.model, entry.series_instance_uid) for entry in plan.declined}
    taken = {(job.model, uid.rsplit(".", 1)[0]) for job in plan.jobs for uids in job.inputs.values() for uid in uids[:1]}
    assert told | taken == {(model, entry.series_instance_uid) for model in cards for entry in made.series}
    assert not told & taken


def test_a_model_of_two_roles_needs_both() -> None:
    """A missing contrast is named; with it each role takes its own series, the reference first."""
    roles: list[dict[str, Any]] = [
        {"role": "flair", "accept": {"modality": ["MR"], "description_any": ["flair"]}},
        {"role": "t1", "reference": True, "accept": {"modality": ["MR"], "description_any": ["t1"]}},
    ]
    shelf = card("two", roles)
    t1 = chest("1.2.3.1", Modality="MR", SeriesDescription="T1 mprage")
    flair = chest("1.2.3.2", Modality="MR", SeriesDescription="FLAIR")
    alone = routing.route(study(t1), {"two": shelf}, (), ())
    assert [entry.reason for entry in alone.declined] == ["it fits the input t1, but no series fits the model's input flair"]
    (job,) = jobs_of(study(t1, flair), shelf=shelf)
    assert [(role, uids[0]) for role, uids in job.inputs.items()] == [("t1", "1.2.3.1.1"), ("flair", "1.2.3.2.1")]


def test_the_first_rule_that_holds_decides() -> None:
    """Called AE, calling AE and conditions choose; later rules are not looked at."""
    rules = (
        Rule(model="chest-ct", mode="shadow", called_ae=("SHADOW",)),
        Rule(model="other", mode="off"),
        Rule(model="chest-ct", priority="stat", calling_ae=("PACS",), destinations=("viewer",)),
        Rule(model="*", mode="off"),
    )
    (job,) = jobs_of(study(chest()), *rules)
    assert (job.mode, job.priority, job.destinations) == (Mode.LIVE, 0, ("viewer",))


def test_a_shadow_job_has_no_destination() -> None:
    """Its parcel is kept and nobody gets it."""
    (job,) = jobs_of(study(chest()), Rule(model="*", mode="shadow"))
    assert (job.mode, job.destinations) == (Mode.SHADOW, ())


def test_a_model_switched_off_says_which_rule_did_it() -> None:
    """The series that would have been taken gets the rule as its reason."""
    plan = routing.route(study(chest()), {"chest-ct": card()}, (Rule(model="x", mode="off"), Rule(model="*", mode="off")), ())
    assert plan.jobs == ()
    assert [entry.reason for entry in plan.declined] == ["rule 2 switches the model off"]


@pytest.mark.parametrize(
    ("tag", "op", "value", "holds"),
    [
        ("BodyPartExamined", "is", "chest", True),
        ("BodyPartExamined", "is", "HEAD", False),
        ("BodyPartExamined", "is-not", "HEAD", True),
        ("SeriesDescription", "is-not", "x", True),
        ("ImageType", "is", "axial", True),
        ("ImageType", "is", "ORIGINAL\\PRIMARY\\AXIAL", True),
        ("ImageType", "contains", "primary\\ax", True),
        ("ImageType", "contains-not", "LOCALIZER", True),
        ("SeriesDescription", "contains", "x", False),
        ("SeriesDescription", "absent", "", True),
        ("BodyPartExamined", "present", "", True),
        ("Rows", "is", "512", True),
    ],
)
def test_conditions_look_at_indexed_attributes(tag: str, op: Any, value: str, *, holds: bool) -> None:
    """Values compare as text without case; a value of several parts by each of them too."""
    rule = Rule.model_validate({"model": "*", "mode": "off", "conditions": [{"tag": tag, "op": op, "value": value}]})
    assert (jobs_of(study(chest()), rule) == ()) is holds


def test_rules_that_can_never_hold_are_refused() -> None:
    """A model or an attribute that does not exist is a mistake to be told at start."""
    with pytest.raises(Misconfigured, match="rule 1 names the model 'chest'"):
        routing.check_rules((Rule(model="chest"),), {"chest-ct": card()})
    odd = Rule.model_validate({"model": "*", "conditions": [{"tag": "OperatorsName", "op": "is", "value": "x"}]})
    with pytest.raises(Misconfigured, match="OperatorsName, which is not indexed"):
        routing.check_rules((odd,), {})


def test_the_job_id_is_the_work_s_and_not_the_revision_s() -> None:
    """Order and revision do not matter; one image, the version or the card do."""
    inputs = {"t1": ("1.2", "1.1"), "t2": ("1.3",)}
    name = routing.job_id(STUDY, inputs, "m", "1", "d")
    assert name == routing.job_id(STUDY, {"t2": ("1.3",), "t1": ("1.1", "1.2")}, "m", "1", "d")
    others = [
        routing.job_id("9", inputs, "m", "1", "d"),
        routing.job_id(STUDY, inputs | {"t2": ("1.4",)}, "m", "1", "d"),
        routing.job_id(STUDY, inputs, "n", "1", "d"),
        routing.job_id(STUDY, inputs, "m", "2", "d"),
        routing.job_id(STUDY, inputs, "m", "1", "e"),
        routing.job_id(STUDY, {"t1": ("1.1", "1.2", "1.3"), "t2": ()}, "m", "1", "d"),
    ]
    assert len({name, *others}) == 7


def test_switching_a_model_off_takes_effect_for_planned_jobs() -> None:
    """The kill switch is judged anew at every claim, with the image's own facts where a rule asks for them."""
    first = chest()[0]
    job = Job(
        **{name: getattr(work.job_plan("j", ["1.2.3.1.1"]), name) for name in JobPlan.__dataclass_fields__},
        generation=1, revision=1, state=JobState.QUEUED, stage=Stage.PREPARE, attempt=0, fence=0, created_at=0.0,
    )  # fmt: skip

    def now(*rules: dict[str, Any], reference: Instance | None = first) -> Mode:
        return routing.mode_now(Settings.model_validate({"rules": rules}), job, reference)

    assert now() is Mode.LIVE
    assert now({"model": "*", "mode": "off"}) is Mode.OFF
    assert now({"model": "*", "mode": "off"}, reference=None) is Mode.OFF
    assert now({"model": "chest-ct", "mode": "off", "called_ae": ["OVERREAD"]}) is Mode.OFF
    assert now({"model": "chest-ct", "mode": "off", "called_ae": ["OTHER"]}) is Mode.LIVE
    assert now({"model": "chest-ct", "mode": "off", "called_ae": ["OTHER"]}, reference=None) is Mode.LIVE
    assert now({"model": "brain-mr", "mode": "off"}) is Mode.LIVE


@pytest.mark.parametrize(
    ("when", "priority"),
    [
        ("called_ae is OVERREAD and BodyPartExamined is chest", 0),
        ("Rows >= 512 and not StationName is CT3", 0),
        ("called_ae is OTHER or SliceThickness > 3", 5),
    ],
)
def test_a_rule_s_text_decides_the_priority(when: str, priority: int) -> None:
    """AE titles and attributes in one condition; where it does not hold the default stays."""
    (job,) = jobs_of(study(chest()), Rule(model="chest-ct", when=when, priority="stat"))
    assert job.priority == priority


def test_a_rule_or_a_card_that_looks_at_what_is_not_indexed_is_refused() -> None:
    """A name in a condition's text or in a card that no image will ever have is told at start."""
    with pytest.raises(Misconfigured, match="rule 1 looks at OperatorsName, which is not indexed"):
        routing.check_rules((Rule(model="*", when="called_ae is X or not OperatorsName is Y"),), {})
    with pytest.raises(Misconfigured, match="the card of chest-ct, input image, looks at OperatorsName"):
        routing.check_rules((), {"chest-ct": card(conditions=[{"tag": "OperatorsName", "value": "x"}])})


def test_several_models_take_one_series_each_by_its_own_rule() -> None:
    """Two models on one study are two jobs: one live and urgent, one in the shadow."""
    cards = {"one": card("one"), "two": card("two")}
    plan = routing.route(study(chest()), cards, (Rule(model="two", mode="shadow"), Rule(model="*", priority="stat")), ("archive",))
    assert [(job.model, job.mode, job.priority, job.destinations) for job in plan.jobs] == [
        ("one", Mode.LIVE, 0, ("archive",)),
        ("two", Mode.SHADOW, 5, ()),
    ]
    assert plan.declined == ()


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ({"region": ["head"]}, "it shows the chest, the model takes the head"),
        ({"orientation": ["coronal", "sagittal"]}, "its slices are axial, the model takes coronal or sagittal"),
        ({"contrast": ["with"]}, "its header does not tell whether contrast medium was given, the model takes with contrast medium"),
        ({"kernel": ["soft"]}, "its header does not tell a known kernel, the model takes soft"),
        ({"image_type_any": ["MPR", "REFORMATTED"]}, "its image type is another, the model takes MPR or REFORMATTED"),
        (
            {"conditions": [{"tag": "PatientID", "op": "is-not", "value": "P1"}]},
            "the model asks that PatientID is not P1, which does not hold here",
        ),
    ],
)
def test_what_the_card_asks_is_said_in_its_words(accept: dict[str, Any], expected: str) -> None:
    """The reason names the series' trait and what the model would take; of a condition only what the card itself says."""
    assert reason(chest(), **accept) == expected


def test_an_unknown_trait_is_taken_only_where_the_card_says_so() -> None:
    """Silence of a header is no answer, unless the card accepts it as one."""
    assert jobs_of(study(chest()), shelf=card(kernel=["soft", "unknown"], contrast=["without", "unknown"]))
