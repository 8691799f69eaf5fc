"""The words devices and technologists use in descriptions, in English, German, French and Spanish.

A phrase is one or more words; a star ends an open one ("sagit*" finds sagittal and sagital). Case and accents do not count.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache

Words = Mapping[str, tuple[str, ...]]

LOCALIZER = (
    "localizer*", "localiser*", "localizador*", "loc", "loca", "aaloc*", "aahead scout*", "scout*", "topogram*", "topo", "surview*",
    "scano*", "scanogram*", "survey*", "ubersicht*", "uebersicht*", "planungsaufnahme*", "reperage*", "centrage*", "mode radio",
    "3 plane", "3plane", "3 pl", "smartprep*", "smart prep*", "bolus track*", "bolustrack*", "premonitor*", "pre monitor*", "monitoring*",
    "testbolus*", "test bolus*", "timing bolus*",
)  # fmt: skip
PROJECTION = ("mip*", "minip*", "projection*", "projektion*", "vrt", "vr", "volume render*", "rot mip*", "thick mip*")
ORIENTATION: Words = {
    "axial": ("ax", "axi", "axial*", "tra", "trans", "transversal*", "transverse*", "axiale*", "transv", "axt1*", "axt2*"),
    "coronal": ("cor", "coro", "coronal*", "koronar*", "frontal*"),
    "sagittal": ("sag", "sagit*"),
}
REGION: Words = {
    "head": (
        "head*", "brain*", "skull*", "cranial*", "cranium*", "crane", "cranien*", "cerebr*", "cereb", "encephal*", "encefal*", "kopf*",
        "schadel*", "schaedel*", "hirn*", "gehirn*", "tete*", "cabeza*", "craneo*", "ccb*", "cct*", "neuro*", "sinus*", "nnh*", "orbit*",
        "pituit*", "hypophy*", "hipofis*", "iac", "felsenbein*", "rocher*", "petros*", "hippocamp*", "facial*", "mittelgesicht*",
    ),
    "neck": ("neck*", "hals*", "cou", "cuello*", "carotid*", "karotis*", "larynx*", "thyroid*", "parotis*", "cervicofacial*"),
    "chest": (
        "chest*", "thorax*", "thorac*", "torax*", "lung*", "pulmon*", "poumon*", "thx*", "mediast*", "tap", "cap", "hrct*", "parenchym*",
        "parenquim*",
    ),
    "heart": ("heart*", "herz*", "coeur*", "corazon*", "cardiac*", "cardio*", "kardio*", "coronary*", "coronari*",
        "koronarie*", "calcium score*"),
    "breast": ("breast*", "mamm*", "mama*", "sein*", "brustdruse*", "seno"),
    "abdomen": (
        "abdom*", "abd", "liver*", "leber*", "foie*", "higado*", "hepat*", "oberbauch*", "bauch*", "pancrea*", "pankrea*", "kidney*",
        "niere*", "renal*", "rein", "reins", "tap", "cap", "urogram*", "mrcp*", "spleen*", "milz*",
    ),
    "pelvis": ("pelv*", "becken*", "bassin*", "prostat*", "tap", "cap", "uter*", "rectum*", "rektum*"),
    "spine": (
        "spine*", "spinal*", "wirbel*", "bws*", "lws*", "hws*", "wbs", "wk", "rachis*", "columna*", "vertebr*", "lumb*", "lenden*",
        "cervical*", "sacr*", "kreuzbein*", "myelo*",
    ),
    "shoulder": ("shoulder*", "schulter*", "epaule*", "hombro*"),
    "arm": ("arm", "elbow*", "ellenbogen*", "ellbogen*", "coude*", "codo*", "wrist*", "handgelenk*", "poignet*", "muneca*", "hand", "mano"),
    "hip": ("hip", "hips", "hufte*", "huefte*", "hanche*", "cadera*"),
    "knee": ("knee*", "knie*", "genou*", "rodilla*"),
    "leg": ("leg", "legs", "thigh*", "oberschenkel*", "unterschenkel*", "jambe*", "pierna*", "femur*", "tibia*"),
    "foot": ("foot*", "feet", "fuss*", "fuß*", "pied*", "pie", "ankle*", "sprunggelenk*", "osg", "cheville*", "tobillo*"),
}  # fmt: skip
# Looked at before CONTRAST_WITH: "ohne KM" holds "KM".
CONTRAST_WITHOUT = (
    "without*", "w o", "wo", "w out", "noncontrast*", "non contrast*", "no contrast*", "noncon*", "non con", "non enh*", "unenhanced*",
    "nonenh*", "precontrast*", "pre contrast*", "pre gd", "pre gad*", "pre km", "pre c", "pre inj*", "withoutc", "nativ*", "ohne", "o km",
    "vor km", "vor kontrast*", "nonkm", "sans", "non inj*", "avant inj*", "spc", "sin", "s c", "simple", "simples", "basal", "plain",
)  # fmt: skip
CONTRAST_WITH = (
    "withc", "contrast*", "w contrast*", "with contrast*", "ce", "cect", "enhanced*", "postcontrast*", "post contrast*",
    "post gd", "post gad*",
    "post c", "post km", "post inj*", "gd", "gad", "gado*", "dotarem*", "km", "mit km", "nach km", "kontrast*", "inj",
    "inject*", "injecte*",
    "avec inj*", "apres inj*", "iv", "civ", "con civ", "con cte", "cte", "cta", "ctpa", "angio ct*", "ct angio*", "angioct*", "angiotac*",
    "angioscan*", "t1 post", "t1w post", "t1c", "t1ce", "arteri*", "portal*", "portoven*", "pvp*", "venous*", "venos*", "veineu*",
)  # fmt: skip
PHASE: Words = {
    "arterial": ("arteri*", "art", "lart", "hap", "cta", "angio*", "ctpa", "early", "fruh*", "frueh*"),
    "portal": ("portal*", "porto*", "pvp", "pv", "pven*", "venous*", "venos*", "venoes*", "veineu*", "ven", "pvi"),
    "delayed": ("delay*", "late", "spat*", "spaet*", "tardi*", "excret*", "equilib*"),
}
# In this order: "ADC" of a diffusion series, FLAIR with T2 weighting, a map of T1.
SEQUENCE: Words = {
    "map": ("t1map*", "t1 map*", "t2map*", "t2 map*", "t2star map*", "b1map*", "field map*", "fieldmap*", "gre field*", "phase map*", "fa",
            "colfa", "cbf", "cbv", "mtt", "ttp", "tmax", "relcbf*", "relcbv*", "relmtt*", "inv1", "inv2", "uni den", "pha", "phase images"),
    "adc": ("adc*", "dadc", "apparent*"),
    "dwi": ("dwi*", "diff", "diffusion*", "difusion*", "dti*", "trace*", "tracew*", "b1000*", "b0 b1000*", "ep2d diff*",
        "edwi*", "ssh dwi*"),
    "perfusion": ("perf*", "dsc*", "dce*", "asl*", "pwi*", "pcasl*"),
    "functional": ("bold*", "fmri*", "rest fmri*", "resting*"),
    "swi": ("swi*", "swan*", "svenbold*", "venbold*", "hemo*", "t2star*", "t2 star*", "t2*s", "t2w ffe*", "t2 ffe*",
            "mag images", "t2etoile*", "t2 etoile*"),
    "angio": ("tof*", "angio*", "mra*", "mrv*", "pcmr*", "venc*", "pca*", "trance*"),
    "flair": ("flair*", "tirm dark*", "dark fl*", "darkfluid*", "spc da fl*"),
    "t2": ("t2*", "tse2d*", "haste*", "ciss*", "fiesta*", "trufi*", "stir*", "tirm*", "drive*", "space t2*", "frfse*", "ssfse*"),
    "pd": ("pd*", "proton*", "dp", "dpfs*", "densidad*", "densite*"),
    "t1": ("t1*", "mprage*", "mp rage*", "bravo*", "fspgr*", "spgr*", "tfl3d*", "vibe*", "3d tfe*", "thrive*", "lava*",
        "flash*", "mp2rage*"),
}  # fmt: skip
# Named like FLAIR, weighted like T1.
T1_FLAIR = ("t1 flair*", "t1flair*", "t1w flair*", "t1w ir*")
KERNEL: Words = {
    "sharp": (
        "bone*", "lung", "lungs", "lungenfenster*", "lungenkern*", "lungenfilter*", "lunge", "knochen*", "knochenfenster*", "os", "osseux*",
        "hueso*", "oseo*", "oseas*", "hrct*", "hr", "parenchym*", "parenquim*", "poumon*", "pulmonaire*", "pulmon",
        "sharp*", "edge*", "dur",
        "filtre dur", "hart*",
    ),
    "soft": (
        "soft*", "weichteil*", "wt", "mediast*", "tissus mous*", "tissu mou*", "parties molles*", "partes blandas*", "standard*", "std",
        "stnd*", "mou", "filtre mou", "weich*", "blando*", "brain*", "hirn*",
    ),
}  # fmt: skip
VIEW: Words = {
    "CC": ("cc", "rcc", "lcc"),
    "MLO": ("mlo", "rmlo", "lmlo"),
    "ML": ("ml", "rml", "lml"),
    "LM": ("lm", "rlm", "llm"),
    "LAT": ("lat", "lateral*", "seitl*", "profil*", "perfil*", "ll"),
    "PA": ("pa",),
    "AP": ("ap", "bedside*", "liegend*", "couche*"),
}
SIDE: Words = {
    "L": ("l", "lcc", "lmlo", "left", "links", "linke*", "gauche*", "izquierd*"),
    "R": ("r", "rcc", "rmlo", "right", "rechts", "rechte*", "droit*", "derech*"),
}
NO_AGENT = frozenset(
    {"none", "no", "n", "nein", "keine", "keines", "ohne", "sans", "aucun", "non", "sin", "ninguno", "0", "nil", "native", "nativ"}
)
# What punctuation means before it is dropped: "+C", "+ KM", "C+" and "C-", "T2*".
_GLUED = tuple(
    (re.compile(pattern, re.IGNORECASE), word)
    for pattern, word in (
        (r"\+\s*(?:c|gd|gad\w*|km|k|iv)\b", " withc "),
        (r"\bc\+(?!\w)", " withc "),
        (r"\bc-(?!\w)(?!\s*(?:spine|wk|arm))", " withoutc "),
        (r"t2\*", " t2star "),
    )
)


def normal(text: str) -> str:
    """Give the words without case, accents and punctuation, a blank at either end.

    Example: "AxT1_Schädel+KM" becomes " ax t1 schadel withc ".
    """
    for pattern, word in _GLUED:
        text = pattern.sub(word, text)
    text = re.sub(r"(?<=[a-zà-ÿ])(?=[A-Z])", " ", text)
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter)).casefold()
    return f" {' '.join(re.findall(r'[a-z0-9]+', plain))} "


def says(text: str, phrases: Iterable[str]) -> bool:
    """Tell whether a normal text holds one of the phrases."""
    return any((f" {phrase[:-1]}" if phrase.endswith("*") else f" {phrase} ") in text for phrase in phrases)


def first(text: str, words: Words) -> str | None:
    """Give the first name whose phrases the text holds."""
    return next((name for name, phrases in words.items() if says(text, phrases)), None)


def every(text: str, words: Words) -> frozenset[str]:
    """Give every name whose phrases the text holds."""
    return frozenset(name for name, phrases in words.items() if says(text, phrases))


@lru_cache(maxsize=512)
def phrase(word: str) -> str:
    """Give a card's word as a phrase that also finds longer words: "Leber" finds "Leberdynamik"."""
    return normal(word).strip() + "*"
