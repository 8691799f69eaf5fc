"""Reports in words open as text in OHIF: scores, a failure, findings for a site without measurements; none turns a viewport black."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from models.card import Card
from models.vocabulary import Score
from node.profiles import Profile
from tests import phantoms
from tests.composed import perfect
from tests.real.ohif import DEFAULT, Study, served, visit
from tests.real.orthanc import orthanc
from tests.real.processes import free_port
from workers.results import Composed, ComposeRequest, FailureRequest, compose, compose_failure

pytestmark = [pytest.mark.real, pytest.mark.verify, pytest.mark.timeout(600)]
WORDS = {
    "scores": "Left lung: probability 87 %, above the operating threshold of 50 %.",
    "failed": "AI FAILED",
    "text": "Nodule: 3 marked.",
}


def written(form: str, request: ComposeRequest) -> Composed:
    """Compose the one report of a form."""
    if form == "failed":
        return compose_failure(
            FailureRequest(job=request.job, card=request.card, sources=request.sources, settings=request.settings, reason="out of memory")
        )
    request = replace(request, profile=Profile(name="words", objects=("sr",), sr_form="text"))
    if form == "scores":
        raw = request.card.card.model_dump()
        raw["output"]["kind"] = "scores"
        raw["measurements"] = []
        for label in raw["output"]["labels"]:
            label["threshold"] = 0.5
        scores = tuple(Score(label=label["index"], score=0.874) for label in raw["output"]["labels"])
        empty = replace(request.prediction, labels=request.prediction.labels * 0, instances=None, findings=(), scores=scores)
        request = replace(request, prediction=empty, card=replace(request.card, card=Card.model_validate(raw)))
    return compose(request)


def test_reports_in_words_open_as_text(tmp_path: Path) -> None:
    """The sentence stands in the viewport."""
    studies, files = [], []
    for form in WORDS:
        truth = phantoms.thorax(tmp_path / form, replace(phantoms.SMALL, identity=f"words {form}"))
        (entry,) = written(form, perfect(truth).request).objects
        (tmp_path / f"{form}.dcm").write_bytes(entry.dataset_bytes)
        files += [*truth.files, tmp_path / f"{form}.dcm"]
        studies.append(Study(name=form, uid=truth.study_instance_uid))
    with orthanc(tmp_path / "orthanc", node_port=free_port()) as archive:
        archive.upload(files)
        with served(tmp_path / "nginx", archive, DEFAULT) as address:
            seen = visit(address, studies, tmp_path / "words")
    for form, said in WORDS.items():
        assert seen[form].faults() == []
        assert said in seen[form].of("SR")["words"]
        assert not seen[form].of("SR")["asked"]
