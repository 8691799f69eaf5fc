"""MR studies of the zoo: heads with four contrasts, with some missing, strokes and knees."""

from __future__ import annotations

from tests.zoo.protocols import MPR, mr
from tests.zoo.series import MR_PLANES, Case

GADO = "DOTAREM"
LATIN = {"SpecificCharacterSet": "ISO_IR 100"}
THREE = {"each": MR_PLANES, "kind": ["ORIGINAL", "PRIMARY", "M", "NORM"]}

FOUR = (
    Case(name="brain-four-siemens-de", kind="MR brain, four contrasts", header={"BodyPartExamined": "HEAD"}, series=(
        mr(1, "localizer", 9, 10.0, **THREE),
        mr(2, "t2_tse_tra_512", 25, 5.0),
        mr(3, "t2_tirm_tra_dark-fluid", 25, 5.0),
        mr(4, "t1_mprage_sag_p2_iso", 176, 1.0, plane="sagittal"),
        mr(5, "ep2d_diff_3scan_trace_p2_ADC", 25, 5.0, kind=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]),
        mr(6, "ep2d_diff_3scan_trace_p2_TRACEW", 25, 5.0, kind=["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"]),
        mr(7, "t1_mprage_sag_p2_iso_KM", 176, 1.0, plane="sagittal", agent=GADO),
        mr(8, "t1_mprage_tra_KM_MPR", 60, 2.0, kind=MPR, agent=GADO),
    )),
    Case(name="brain-four-ge-en", kind="MR brain, four contrasts", header={"BodyPartExamined": "BRAIN"}, series=(
        mr(1, "3-plane LOC", 9, 10.0, **THREE),
        mr(2, "Ax T2 FRFSE", 25, 5.0, plane="tilted axial"),
        mr(3, "Ax T2 FLAIR", 25, 5.0, plane="tilted axial"),
        mr(4, "Sag T1 FLAIR", 25, 5.0, plane="sagittal"),
        mr(5, "Ax DWI", 50, 5.0),
        mr(6, "ADC (10^-6 mm2/s)", 25, 5.0, kind=["DERIVED", "PRIMARY", "OTHER"]),
        mr(7, "Ax T1 +C", 25, 5.0, agent=GADO),
        mr(8, "Ax 3D BRAVO +C", 160, 1.0, agent=GADO),
    )),
    Case(name="brain-four-philips-fr", kind="MR brain, four contrasts", header=LATIN | {"StudyDescription": "IRM cérébrale"}, series=(
        mr(1, "Repérage", 9, 10.0, **THREE),
        mr(2, "T2 TSE ax", 24, 5.0),
        mr(3, "FLAIR 3D sag", 180, 1.0, plane="sagittal"),
        mr(4, "FLAIR ax 4mm", 30, 4.0),
        mr(5, "3D TFE sans gado", 170, 1.0, plane="sagittal"),
        mr(6, "3D TFE avec injection", 170, 1.0, plane="sagittal"),
        mr(7, "SWIp", 80, 2.0),
    )),
)  # fmt: skip

PARTIAL = (
    Case(name="brain-no-flair-siemens-en", kind="MR brain, contrasts missing", header={"BodyPartExamined": "BRAIN"}, series=(
        mr(1, "localizer", 9, 10.0, **THREE),
        mr(2, "t2_tse_tra", 25, 5.0),
        mr(3, "t1_mprage_sag", 176, 1.0, plane="sagittal"),
        mr(4, "t1_mprage_sag_post_gd", 176, 1.0, plane="sagittal"),
    )),
    Case(name="brain-post-only-ge-es", kind="MR brain, contrasts missing", header={"StudyDescription": "RM cerebral"}, series=(
        mr(1, "Localizador", 9, 10.0, **THREE),
        mr(2, "SAG T1 3D post gadolinio", 170, 1.0, plane="sagittal"),
        mr(3, "AX T2", 24, 5.0),
        mr(4, "AX FLAIR", 24, 5.0),
    )),
    Case(name="brain-two-frames-siemens-de", kind="MR brain, contrasts missing", header={"BodyPartExamined": "HEAD"}, series=(
        mr(1, "localizer", 9, 10.0, **THREE),
        mr(2, "t1_mpr_tra_iso", 170, 1.0),
        mr(3, "t2_tse_tra", 25, 5.0),
        mr(4, "t2_flair_tra", 25, 5.0),
        mr(5, "t1_mpr_tra_iso_KM", 170, 1.0, agent=GADO, frame="after getting up"),
    )),
)  # fmt: skip

STROKE = (
    Case(name="brain-stroke-siemens-en", kind="MR brain for stroke", header={"BodyPartExamined": "BRAIN"}, series=(
        mr(1, "AAHead_Scout", 9, 10.0, **THREE),
        mr(2, "ep2d_diff_3scan_trace_p2", 50, 5.0),
        mr(3, "ep2d_diff_3scan_trace_p2_ADC", 25, 5.0, kind=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]),
        mr(4, "ep2d_perf", 40, 5.0, agent=GADO),
        mr(5, "TOF_3D_multi-slab", 120, 0.7),
        mr(6, "t2_fl2d_tra_hemo", 25, 5.0),
        mr(7, "t2_tirm_tra_dark-fluid", 25, 5.0),
    )),
    Case(name="brain-stroke-philips-de", kind="MR brain for stroke", header={"BodyPartExamined": "HEAD"}, series=(
        mr(1, "Survey", 9, 10.0, **THREE),
        mr(2, "DWI_SSh", 50, 5.0),
        mr(3, "dADC", 25, 5.0),
        mr(4, "sT2W_FLAIR", 25, 5.0),
        mr(5, "T2W_FFE", 25, 5.0),
    )),
    Case(name="brain-unnamed-ge-fr", kind="MR brain for stroke", header=LATIN | {"BodyPartExamined": "HEAD"}, series=(
        mr(1, "Repérage 3 plans", 9, 10.0, **THREE),
        mr(2, "Axial SE court", 20, 5.0, scanning="SE", times=(10, 500, None)),
        mr(3, "Axial SE long", 20, 5.0, scanning="SE", times=(100, 4500, None)),
        mr(4, "Axial IR", 20, 5.0, scanning=["SE", "IR"], times=(120, 9000, 2500)),
        mr(5, "Diffusion b1000", 40, 5.0),
        mr(6, "Axial EG", 20, 5.0, scanning="GR", times=(20, 500, None)),
    )),
)  # fmt: skip

KNEE = (
    Case(name="knee-siemens-de", kind="MR knee", header={"BodyPartExamined": "KNEE"}, series=(
        mr(1, "localizer", 9, 10.0, **THREE),
        mr(2, "pd_tse_fs_sag", 25, 3.0, plane="sagittal"),
        mr(3, "t1_tse_cor", 25, 3.0, plane="coronal"),
        mr(4, "t2_tse_tra", 25, 4.0),
    )),
    Case(name="knee-ge-en", kind="MR knee", header={"BodyPartExamined": "HEAD"}, series=(
        mr(1, "3-Plane Loc", 9, 10.0, **THREE),
        mr(2, "Sag PD FS knee", 25, 3.0, plane="sagittal"),
        mr(3, "Knee 3D T1 SPGR", 120, 1.0, plane="sagittal"),
    )),
    Case(name="knee-philips-es", kind="MR knee", header={"StudyDescription": "RM rodilla izquierda"}, series=(
        mr(1, "Survey", 9, 10.0, **THREE),
        mr(2, "DP_fs_sag", 25, 3.0, plane="sagittal"),
        mr(3, "T1_TSE_cor", 25, 3.0, plane="coronal"),
    )),
)  # fmt: skip

CASES = (*FOUR, *PARTIAL, *STROKE, *KNEE)
