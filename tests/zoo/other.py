"""The other studies of the zoo: PET-CT, mammography, radiographs, ultrasound, objects without images, enhanced images."""

from __future__ import annotations

from tests.zoo.protocols import ct, dose, frames, mammogram, mr, pet, scout, screen, thing, xray
from tests.zoo.series import Case

OURS = {"Manufacturer": "Overread"}
WHOLE_BODY = {"StudyDescription": "PET/CT Ganzkörper", "SpecificCharacterSet": "ISO_IR 100"}
VIEWS = (("CC", "R"), ("CC", "L"), ("MLO", "R"), ("MLO", "L"))
EACH_VIEW = tuple({"ViewPosition": view, "ImageLaterality": side} for view, side in VIEWS)

PET_CT = (
    Case(name="petct-siemens-de", kind="PET-CT", header=WHOLE_BODY, series=(
        scout(1, "Topogramm 0.6 T20f"),
        ct(2, "CT GK nativ 3.0 B31f", 200, 3.0, "B31f"),
        pet(3, "PET GK AC", 200, 3.0),
        pet(4, "PET GK NAC", 200, 3.0, corrected=False),
        thing(5, "PT", "SC", "PET MIP", header={"ImageType": ["DERIVED", "SECONDARY", "MIP"]}),
    )),
    Case(name="petct-ge-en", kind="PET-CT", header={"StudyDescription": "PET/CT skull base to thigh"}, series=(
        scout(1, "Scout"),
        ct(2, "CTAC 3.75", 180, 3.75, "STANDARD", part="CHEST"),
        pet(3, "WB 3D AC", 180, 3.75),
        pet(4, "WB 3D NAC", 180, 3.75, corrected=False),
        ct(5, "CHEST BREATH HOLD 1.25", 200, 1.25, "LUNG", part="CHEST"),
    )),
    Case(name="petct-patient-moved-en", kind="PET-CT", series=(
        ct(2, "CT WB 3.0", 200, 3.0, "B30f"),
        pet(3, "PET WB AC", 200, 3.0, frame="after getting up"),
    )),
)  # fmt: skip

BREASTS = (
    Case(name="mammography-hologic-en", kind="mammography", series=(
        *(mammogram(number, view, side) for number, (view, side) in enumerate(VIEWS, start=1)),
        *(mammogram(number, view, side, intent="FOR PROCESSING") for number, (view, side) in enumerate(VIEWS, start=11)),
    )),
    Case(name="mammography-view-missing-fr", kind="mammography", series=(
        *(mammogram(number, view, side) for number, (view, side) in enumerate(VIEWS[:3], start=1)),
        thing(90, "SR", "SR", "Mammography CAD"),
    )),
    Case(name="mammography-one-series-ge-de", kind="mammography", series=(
        mammogram(1, "CC", "R", description="Mammographie", images=4, each=EACH_VIEW),
        mammogram(2, "ML", "R", description="R ML vergrößert", header={"SpecificCharacterSet": "ISO_IR 100"}),
    )),
)  # fmt: skip

RADIOGRAPHS = (
    Case(name="chest-radiograph-dx-en", kind="chest radiograph", series=(
        xray(1, "DX", "Chest PA", "PA", part="CHEST"),
        xray(2, "DX", "Chest LAT", "LL", part="CHEST"),
    )),
    Case(name="chest-radiograph-bedside-de", kind="chest radiograph", series=(
        xray(1, "CR", "Thorax ap liegend", "AP", part="CHEST"),
        xray(2, "CR", "Abdomen ap", "AP", part="CHEST"),
    )),
    Case(name="chest-radiograph-cr-es", kind="chest radiograph", header={"SpecificCharacterSet": "ISO_IR 192"}, series=(
        xray(1, "CR", "Tórax lateral"),
        xray(2, "CR", "Tórax AP"),
        xray(3, "CR", "Tórax PA"),
    )),
    Case(name="chest-radiograph-raw-first-en", kind="chest radiograph", series=(
        xray(1, "DX", "Chest PA raw", "PA", part="CHEST", intent="FOR PROCESSING"),
        xray(2, "DX", "Chest PA", "PA", part="CHEST"),
    )),
    Case(name="chest-radiograph-two-in-one-en", kind="chest radiograph", series=(xray(1, "DX", "Chest", part="CHEST", images=2),)),
)  # fmt: skip

ULTRASOUND = (
    Case(name="us-abdomen-en", kind="ultrasound", series=(
        thing(1, "US", "", "Abdomen"),
        thing(2, "US", "US clip", "Abdomen", header={"NumberOfFrames": 30}),
    )),
    Case(name="us-thyroid-de", kind="ultrasound", series=(thing(1, "US", "", "Schilddruese"),)),
    Case(name="us-echo-fr", kind="ultrasound", series=(
        thing(1, "US", "US clip", "Echo coeur", header={"NumberOfFrames": 60}),
        thing(2, "SR", "SR", "Mesures"),
    )),
)  # fmt: skip

PAPERS = (
    Case(name="dose-report-alone", kind="objects without images", series=(dose(1), thing(2, "KO", "KO", "Key images"))),
    Case(name="presentation-states", kind="objects without images", series=(
        thing(1, "PR", "PR", "Presentation state"),
        thing(2, "KO", "KO", "For conference"),
        thing(3, "PR", "PR", "Annotations"),
    )),
    Case(name="letters-and-screens", kind="objects without images", series=(
        thing(1, "DOC", "PDF", "Referral letter"),
        thing(2, "OT", "SC", "Scanned form", header={"ImageType": ["DERIVED", "SECONDARY"]}),
        screen(3, "Screen save"),
        screen(4, "Screen save", "MR"),
    )),
)  # fmt: skip

RESULTS = (
    Case(name="own-results-back", kind="results sent back to us", series=(
        ct(2, "Thorax 3.0 Br40", 100, 3.0, "Br40d"),
        thing(9001, "SEG", "SEG", "Chest CT lungs and nodules", header=OURS),
        thing(9002, "SR", "SR", "Chest CT lungs and nodules", header=OURS),
    )),
    Case(name="foreign-results", kind="results sent back to us", series=(
        ct(2, "Chest 3.0", 100, 3.0, "STANDARD"),
        thing(50, "SEG", "SEG", "Lobes", header={"Manufacturer": "Another"}),
        ct(51, "Chest 3.0 AI overlay", 100, 3.0, "STANDARD", kind=["DERIVED", "SECONDARY", "OVERLAY"]),
    )),
    Case(name="own-capture-back", kind="results sent back to us", series=(
        ct(2, "Torax 2.0", 140, 2.0, "FC08"),
        thing(9003, "CT", "SC", "Key slices", header=OURS | {"ImageType": ["DERIVED", "SECONDARY"]}),
    )),
)  # fmt: skip

THERAPY = (
    Case(name="therapy-chest-en", kind="radiotherapy planning", series=(
        ct(1, "Thorax RT 3mm", 100, 3.0, "B30f", part="CHEST"),
        thing(2, "RTSTRUCT", "RTSTRUCT", "Contours"),
        thing(3, "RTPLAN", "RTPLAN", "Plan 1"),
        thing(4, "RTDOSE", "RTDOSE", "Dose"),
        thing(5, "REG", "REG", "Registration"),
    )),
    Case(name="therapy-pelvis-de", kind="radiotherapy planning", series=(
        ct(1, "Becken Planungs-CT 3mm", 100, 3.0, "B31s"),
        thing(2, "RTSTRUCT", "RTSTRUCT", "Konturen"),
    )),
    Case(name="therapy-breathing-en", kind="radiotherapy planning", series=(
        ct(1, "Thorax 4D 0%", 80, 3.0, "B30f"),
        ct(2, "Thorax 4D 50%", 80, 3.0, "B30f"),
        ct(3, "Thorax 4D average", 80, 3.0, "B30f", kind=["DERIVED", "SECONDARY", "AVERAGE"]),
    )),
)  # fmt: skip

ENHANCED = (
    Case(name="enhanced-chest-ct", kind="enhanced multi-frame", series=(
        frames(1, "CT", "Scout", 1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]),
        frames(2, "CT", "Chest 1.5 Br40", 200),
    )),
    Case(name="enhanced-brain-mr", kind="enhanced multi-frame", header={"BodyPartExamined": "HEAD"}, series=(
        frames(1, "MR", "T1W_3D_TFE", 180),
        frames(2, "MR", "T2W_TSE", 30),
        frames(3, "MR", "FLAIR", 30),
        mr(4, "Survey", 9, 10.0),
    )),
    Case(name="enhanced-petct", kind="enhanced multi-frame", series=(
        frames(1, "CT", "CT WB", 200, FrameOfReferenceUID="2.25.77"),
        frames(2, "PT", "PET WB", 200, FrameOfReferenceUID="2.25.77"),
    )),
)  # fmt: skip

CASES = (*PET_CT, *BREASTS, *RADIOGRAPHS, *ULTRASOUND, *PAPERS, *RESULTS, *THERAPY, *ENHANCED)
