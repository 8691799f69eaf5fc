"""CT studies of the zoo: chest, abdomen, head and vessels, as four vendors and four languages name them."""

from __future__ import annotations

from tests.zoo.protocols import MPR, ct, dose, scout, screen
from tests.zoo.series import Case

REFORMATTED = ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]
AGENT = "OMNIPAQUE 350"

CHEST = (
    Case(name="chest-native-ge-en", kind="chest CT native", series=(
        scout(1, "Scout", 2),
        ct(2, "CHEST WO 2.5mm", 120, 2.5, "STANDARD", part="CHEST"),
        ct(3, "LUNG 2.5mm", 120, 2.5, "LUNG", part="CHEST"),
        screen(99, "Dose Report"),
        dose(997),
    )),
    Case(name="chest-native-siemens-de", kind="chest CT native", series=(
        scout(1, "Topogramm 0.6 T20f", part="CHEST"),
        ct(2, "Thorax nativ 5.0 B31f", 60, 5.0, "B31f", part="CHEST"),
        ct(3, "Thorax nativ 1.5 B70f", 200, 1.5, "B70f", part="CHEST"),
        ct(4, "Thorax nativ 3.0 cor", 60, 3.0, "B31f", kind=MPR, plane="coronal", part="CHEST"),
        screen(501, "Patientenprotokoll"),
        dose(502, "Dosisbericht"),
    )),
    Case(name="chest-native-canon-fr", kind="chest CT native", series=(
        scout(1, "SCANOSCOPE", kind=["ORIGINAL", "PRIMARY", "AXIAL"]),
        ct(2, "THORAX C- 2.0", 150, 2.0, "FC08", part="CHEST"),
        ct(3, "Parenchyme 2.0", 150, 2.0, "FC52", part="CHEST"),
        dose(9, "Rapport de dose"),
    )),
    Case(name="chest-contrast-philips-es", kind="chest CT with contrast", series=(
        scout(1, "Surview"),
        ct(2, "Tórax simple 3.0", 100, 3.0, "B"),
        ct(3, "Tórax con contraste 3.0", 100, 3.0, "B", agent=AGENT),
        ct(4, "Pulmón 2.0", 150, 2.0, "YC", agent=AGENT),
    ), header={"SpecificCharacterSet": "ISO_IR 192"}),
    Case(name="chest-contrast-ge-en", kind="chest CT with contrast", series=(
        scout(1, "Scout", 2),
        ct(2, "CHEST W 1.25mm", 200, 1.25, "STANDARD", agent=AGENT),
        ct(3, "CHEST W 5mm", 50, 5.0, "STANDARD", agent=AGENT),
        ct(4, "COR CHEST", 60, 3.0, "STANDARD", agent=AGENT, kind=REFORMATTED, plane="coronal"),
        ct(5, "SAG CHEST", 60, 3.0, "STANDARD", agent=AGENT, kind=REFORMATTED, plane="sagittal"),
        ct(100, "AXIAL MIP", 50, 5.0, agent=AGENT, kind=["DERIVED", "SECONDARY", "PROJECTION IMAGE", "MIP"]),
    )),
    Case(name="chest-contrast-siemens-de", kind="chest CT with contrast", series=(
        scout(1, "Topogramm 0.6 Tr20"),
        ct(2, "Premonitoring 10.0", 1, 10.0, "Br36f", part="CHEST"),
        ct(3, "Monitoring 10.0", 8, 0.0, "Br36f", part="CHEST", agent=AGENT),
        ct(4, "Thorax KM 1.5 Br40 S3", 200, 1.5, kernels=["Br40f", "3"], agent=AGENT),
        ct(5, "Thorax KM 1.5 Bl57 S3", 200, 1.5, kernels=["Bl57f", "3"], agent=AGENT),
        dose(502, "Dosisbericht"),
    )),
    Case(name="chest-kernels-philips-en", kind="chest CT thin and thick, lung and soft", series=(
        scout(1, "Surview"),
        ct(2, "CHEST 5mm MEDIASTINUM", 60, 5.0, "B"),
        ct(3, "CHEST 1.25mm LUNG", 240, 1.25, "L"),
        ct(4, "CHEST 2mm SOFT", 150, 2.0, "B"),
    )),
    Case(name="chest-kernels-canon-es", kind="chest CT thin and thick, lung and soft", series=(
        scout(1, "Localizador"),
        ct(2, "Mediastino 5.0", 60, 5.0, "FC08"),
        ct(3, "Pulmón 1.5", 200, 1.5, "FC52"),
    ), header={"SpecificCharacterSet": "ISO_IR 192"}),
    Case(name="chest-kernels-ge-fr", kind="chest CT thin and thick, lung and soft", series=(
        scout(1, "Mode radio"),
        ct(2, "TISSUS MOUS 2.5", 120, 2.5, "STANDARD", part="CHEST"),
        ct(3, "FILTRE DUR 1.25", 200, 1.25, "BONEPLUS", part="CHEST"),
        ct(4, "FILTRE OS 2.5", 120, 2.5, "BONE", part="CHEST"),
    )),
    Case(name="chest-reformats-siemens-en", kind="chest CT with reformats", series=(
        scout(1, "Topogram 0.6 Tr20"),
        ct(2, "Chest 1.5 Br40", 200, 1.5, "Br40d"),
        ct(3, "Chest 3.0 MPR cor", 70, 3.0, "Br40d", kind=["DERIVED", "PRIMARY", "MPR"], plane="coronal"),
        ct(4, "Chest 3.0 MPR sag", 70, 3.0, "Br40d", kind=["DERIVED", "PRIMARY", "MPR"], plane="sagittal"),
        ct(5, "Chest 10.0 MIP ax", 60, 5.0, "Br40d", kind=["DERIVED", "PRIMARY", "AXIAL"]),
    )),
    Case(name="chest-reformats-only-de", kind="chest CT with reformats", series=(
        scout(1, "Topogramm 0.6 T20f"),
        ct(3, "Thorax cor 3.0", 80, 3.0, "B31f", kind=MPR, plane="coronal"),
        ct(4, "Thorax sag 3.0", 80, 3.0, "B31f", kind=MPR, plane="sagittal"),
    )),
    Case(name="chest-reformats-ge-fr", kind="chest CT with reformats", series=(
        scout(1, "Scout", 2),
        ct(2, "Thorax axial 3.0", 100, 3.0, "STANDARD"),
        ct(3, "Thorax oblique 3.0", 100, 3.0, "STANDARD", kind=["DERIVED", "PRIMARY", "REFORMATTED"], plane="oblique"),
        screen(4, "VRT thorax"),
    )),
)  # fmt: skip

VESSELS = (
    Case(name="cta-pulmonary-siemens-de", kind="CT angiography", series=(
        scout(1, "Topogramm 0.6 T20f"),
        ct(2, "Premonitoring 10.0", 1, 10.0, "B30f", part="CHEST"),
        ct(3, "Monitoring 10.0", 8, 0.0, "B30f", part="CHEST", agent=AGENT),
        ct(4, "CTA Pulmonalis 1.5 Bv40", 180, 1.5, "Bv40d", part="CHEST", agent=AGENT),
        ct(5, "CTA Pulm 5.0 Br40", 55, 5.0, "Br40d", part="CHEST", agent=AGENT),
        ct(6, "Pulmonalis MIP 8.0", 55, 5.0, "Bv40d", part="CHEST", agent=AGENT, kind=["DERIVED", "SECONDARY", "AXIAL"]),
    )),
    Case(name="cta-aorta-ge-en", kind="CT angiography", series=(
        scout(1, "Scout", 2),
        ct(2, "SmartPrep Series", 6, 0.0, "STANDARD", agent=AGENT),
        ct(3, "CTA CHEST ABD PELVIS 2.5", 260, 2.5, "STANDARD", agent=AGENT),
        ct(4, "DELAYED ABD PEL 5.0", 90, 5.0, "STANDARD", agent=AGENT, part="CHEST"),
    )),
    Case(name="cta-carotids-philips-fr", kind="CT angiography", series=(
        scout(1, "Surview", part="NECK"),
        ct(2, "Angioscanner TSA 1.5", 230, 1.5, "B", part="NECK", agent=AGENT),
    )),
)  # fmt: skip

ABDOMEN = (
    Case(name="abdomen-phases-siemens-de", kind="abdomen CT in phases", series=(
        scout(1, "Topogramm 0.6 T20f"),
        ct(2, "Abdomen nativ 3.0 Br40", 90, 3.0, "Br40d"),
        ct(3, "Oberbauch arteriell 3.0 Br40", 90, 3.0, "Br40d", agent="Imeron 400"),
        ct(4, "Abdomen portalvenös 3.0 Br40", 120, 3.0, "Br40d", agent="Imeron 400"),
        ct(5, "Abdomen spät 3.0 Br40", 120, 3.0, "Br40d", agent="Imeron 400"),
    ), header={"SpecificCharacterSet": "ISO_IR 100"}),
    Case(name="abdomen-phases-ge-en", kind="abdomen CT in phases", series=(
        scout(1, "Scout", 2),
        ct(2, "ABD WO 5.0", 60, 5.0, "STANDARD", agent=AGENT),
        ct(3, "ABD LATE ART 2.5", 120, 2.5, "STANDARD", agent=AGENT),
        ct(4, "ABD PEL PV 2.5", 180, 2.5, "STANDARD", agent=AGENT),
        ct(5, "ABD PEL PV 5.0", 90, 5.0, "STANDARD", agent=AGENT),
    )),
    Case(name="abdomen-portal-canon-es", kind="abdomen CT in phases", series=(
        scout(1, "Localizador"),
        ct(2, "Abdomen sin contraste 5.0", 60, 5.0, "FC08"),
        ct(3, "Abdomen portal 3.0", 120, 3.0, "FC08", agent=AGENT),
        ct(4, "Hígado tardía 3.0", 60, 3.0, "FC08", agent=AGENT),
    ), header={"SpecificCharacterSet": "ISO_IR 192"}),
    Case(name="trunk-siemens-fr", kind="CT of chest, abdomen and pelvis", series=(
        scout(1, "Topogramme 0.6 T20f"),
        ct(2, "TAP injecté portal 2.5 Br40", 240, 2.5, "Br40d", agent=AGENT),
        ct(3, "Poumon 2.0 Bl57", 150, 2.0, "Bl57d", agent=AGENT),
    ), header={"SpecificCharacterSet": "ISO_IR 100"}),
    Case(name="trunk-ge-en", kind="CT of chest, abdomen and pelvis", series=(
        scout(1, "Scout", 2),
        ct(2, "CHEST ABD PELVIS W 5.0", 130, 5.0, "STANDARD", agent=AGENT),
        ct(3, "CHEST 1.25 LUNG", 240, 1.25, "LUNG", agent=AGENT),
    )),
    Case(name="trunk-philips-de", kind="CT of chest, abdomen and pelvis", series=(
        scout(1, "Surview"),
        ct(2, "Thorax/Abdomen pv 3.0", 200, 3.0, "B", agent="Imeron 400"),
        ct(3, "Thorax/Abdomen cor 3.0", 90, 3.0, "B", agent="Imeron 400", kind=MPR, plane="coronal"),
        ct(4, "BWS/LWS sag 2.0", 60, 2.0, "D", agent="Imeron 400", kind=["DERIVED", "PRIMARY", "MPR"], plane="sagittal"),
    )),
)  # fmt: skip

HEAD = (
    Case(name="head-native-ge-en", kind="head CT", series=(
        scout(1, "Scout", plane="sagittal"),
        ct(2, "HEAD WO 5.0", 30, 5.0, "STANDARD", part="HEAD", plane="tilted axial"),
        ct(3, "BONE 1.25", 120, 1.25, "BONE", part="HEAD"),
    )),
    Case(name="head-native-siemens-de", kind="head CT", series=(
        scout(1, "Topogramm 0.6 T20s", plane="sagittal"),
        ct(2, "Schädel nativ 4.0 H31s", 36, 4.0, "H31s", part="HEAD"),
        ct(3, "Schädel 0.75 H60s", 200, 0.75, "H60s", part="HEAD"),
        ct(4, "Schädel cor 3.0", 50, 3.0, "H31s", part="HEAD", kind=MPR, plane="coronal"),
    ), header={"SpecificCharacterSet": "ISO_IR 100"}),
    Case(name="head-perfusion-canon-fr", kind="head CT", series=(
        scout(1, "Scanogramme", plane="sagittal"),
        ct(2, "Crâne sans inj 5.0", 30, 5.0, "FC26", part="HEAD"),
        ct(3, "Perfusion crâne", 40, 0.0, "FC41", part="HEAD", agent=AGENT),
    ), header={"SpecificCharacterSet": "ISO_IR 100"}),
)  # fmt: skip

CASES = (*CHEST, *VESSELS, *ABDOMEN, *HEAD)
