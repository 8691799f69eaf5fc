"""A bundle is code: what it may not do is refused by name when it is loaded, and nothing of it has run by then."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from models import registry
from models.card import BadCard
from tests.models.runtimes import bundles
from tests.models.runtimes.bundles import INFERENCE, METADATA, changed

PLANT = "MARK"
"""Stands in a planted expression for a path; the file must not exist afterwards."""
STEPS = INFERENCE["postprocessing"]["transforms"]
DEF = INFERENCE["network_def"]


def refused(folder: Path, inference: dict[str, Any], reason: str) -> None:
    """Load a bundle with a planted configuration: BadCard with the reason, and the plant has not gone off."""
    bundles.write(folder, INFERENCE)
    mark = folder / "mark"
    text = (folder / "configs/inference.json").write_text(_planted(inference, str(mark)))
    assert text
    with pytest.raises(BadCard, match=reason):
        registry.load(bundles.card(folder), "cpu")
    assert not mark.exists()


def _planted(inference: dict[str, Any], mark: str) -> str:
    return json.dumps(inference).replace(PLANT, mark)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("$__import__('os').system('touch MARK')", "uses __import__, which is not allowed"),
        ("$os.system('touch MARK')", r"uses os\.system, which is not in monai, torch, numpy, math"),
        ("$open('MARK', 'w')", "uses open, which is not allowed"),
        ("$eval('1')", "uses eval, which is not allowed"),
        ("$exec('1')", "uses exec, which is not allowed"),
        ("$getattr(torch, 'load')", "uses getattr, which is not allowed"),
        ("$torch.load('MARK')", r"uses torch\.load, which"),
        ("$torch.hub.load('a/b', 'c')", r"uses torch\.hub\.load, which"),
        ("$torch.save(1, 'MARK')", r"uses torch\.save, which"),
        ("$torch.serialization.os.system('touch MARK')", r"uses torch\.serialization\.os\.system, which"),
        ("$torch.nn.functional.torch.save(1, 'MARK')", r"uses torch\.nn\.functional\.torch\.save, which"),
        ("$torch", "uses torch, which is a module"),
        ("$[torch.nn][0].Module", r"uses torch\.nn, which is a module"),
        ("$np.load('MARK', allow_pickle=True)", r"uses np\.load, which"),
        ("$np.ones(3).tofile('MARK')", r"asks a value for \.tofile"),
        ("$np.ones(3).dump('MARK')", r"asks a value for \.dump"),
        ("$np.lib.npyio.NpzFile('MARK')", r"uses np\.lib\.npyio\.NpzFile, which"),
        ("$monai.apps.download_url('http://127.0.0.1/x', 'MARK')", r"uses monai\.apps\.download_url, which is none of MONAI's"),
        ("$monai.bundle.load('x')", r"uses monai\.bundle\.load, which is none of MONAI's"),
        ("$monai.transforms.SaveClassificationd('pred', output_dir='MARK')", "SaveClassificationd, which reads or writes files"),
        ("$monai.transforms.SaveImage('MARK')", r"uses monai\.transforms\.SaveImage, which reads or writes files"),
        ("$monai.transforms.io.array.os.remove('MARK')", r"monai\.transforms\.io\.array\.os\.remove, which"),
        ("$monai.networks.nets.densenet121(pretrained=True)", "pretrained = True would fetch weights"),
        ("$monai.networks.nets.EfficientNetBN('efficientnet-b0')", "pretrained = True would fetch weights"),
        ("$monai.networks.nets.densenet121(**{'pretrained': True})", r"passes arguments by \*\*"),
        ("$().__class__.__bases__[0].__subclasses__()", r"asks a value for \.__subclasses__"),
        ("$(lambda x: x.__globals__)(len)", r"asks a value for \.__globals__"),
        ("$[x for x in ().__class__.__mro__]", r"asks a value for \.__mro__"),
        ("$'{0.__class__}'.format(1)", r"asks a value for \.format"),
        ("$(y := 1)", "has a NamedExpr, which is not allowed"),
        ("$[0 for torch.nn.functional.relu in [len]]", r"assigns to torch\.nn\.functional\.relu"),
        ("$[0 for @spacing[0] in [1]]", "assigns to __local_refs"),
        ("$(lambda torch: torch.load('MARK'))(1)", "binds torch anew"),
        ("$import os", "is no single expression"),
        ("$1; __import__('os').system('touch MARK')", "is no single expression"),
        ("$@_meta_ and @", "refers to the whole configuration"),
        ("$'@image_key'", "is no single expression"),
    ],
)
def test_an_expression_that_reaches_out_is_refused(tmp_path: Path, expression: str, reason: str) -> None:
    """An expression may do arithmetic and build components; one that reaches a file, the network or Python's insides is named."""
    refused(tmp_path, changed(INFERENCE, network_def__out_channels=expression), reason)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("os.system", r"os\.system is not in monai, torch, numpy, math"),
        ("subprocess.run", r"subprocess\.run is not in"),
        ("builtins.exec", r"builtins\.exec is not in"),
        ("exec", "exec is no component of MONAI"),
        ("scripts.network.Own", r"scripts\.network\.Own is the bundle's own code: pin its file"),
        ("torch.load", r"torch\.load is not one of torch's layers"),
        ("torch.hub.load", r"torch\.hub\.load is not one of torch's layers"),
        ("torch.jit.load", r"torch\.jit\.load is not one of torch's layers"),
        ("monai.bundle.load", r"monai\.bundle\.load is none of MONAI's"),
        ("monai.apps.utils.download_url", "is none of MONAI's"),
        ("monai.transforms.io.dictionary.Path", r"\.Path is none of MONAI's"),
        ("monai.networks.nets.unet.torch.load", r"torch\.load is none of MONAI's"),
        ("monai.networks.nets.NoSuchNet", "does not exist here"),
        ("NoSuchNet", "is no component of MONAI"),
        ("Transchex", "downloads its weights"),
        ("PatchInferer", "finds its parts by names of any module"),
        ("ZarrAvgMerger", "is none of MONAI's"),
        ("monai.transforms.utils_create_transform_ims.get_data", "is none of MONAI's"),
        ("TextEncoder", "pretrained = True would fetch weights"),
        ("monai.networks.nets.get_pretrained_resnet_medicalnet", "none of MONAI's|downloads weights|does not exist"),
        ("$torch.nn.Identity", "_target_ must be a name"),
    ],
)
def test_a_target_that_is_no_component_is_refused(tmp_path: Path, target: str, reason: str) -> None:
    """What a bundle builds must be a network, transform or inferer of MONAI or a layer of torch, found where it says it is."""
    refused(tmp_path, changed(INFERENCE, network_def___target_=target), reason)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (
            {"network_def": {"_target_": "DenseNet121", "spatial_dims": 2, "in_channels": 1, "out_channels": 3, "pretrained": True}},
            "would fetch",
        ),
        ({"network_def": {"_target_": "EfficientNetBN", "model_name": "efficientnet-b0"}}, "pretrained = True would fetch weights"),
        ({"network_def": {**DEF, "act": "/etc/passwd"}}, "'/etc/passwd' reaches outside of the bundle"),
        ({"network_def": {**DEF, "act": "models/../../x"}}, "reaches outside of the bundle"),
        ({"network_def": {**DEF, "act": "http://127.0.0.1/x"}}, "reaches outside of the bundle"),
        ({"network_def": {**DEF, "_debug_": True}}, "_debug_ stops a worker"),
        ({"network_def": {**DEF, "_mode_": "debug"}}, "_mode_ 'debug' is not allowed"),
        ({"network_def": {**DEF, "out_channels": "%/etc/classes.json::n"}}, "a macro that reads another file"),
        ({"network_def": {**DEF, "out_channels": "@classes"}}, "@classes: is not in the configuration"),
        ({"network_def": {**DEF, "nonsense": 1}}, "network_def: cannot be built: TypeError"),
        ({"network_def": None, "network": None}, "network_def: is missing"),
        ({"preprocessing__transforms__5": {"_target_": "RandFlipd", "keys": "image"}}, "RandFlipd: works by chance"),
        ({"preprocessing__transforms__5": {"_target_": "TorchVisiond", "keys": "image", "name": "Resize"}}, "another library's functions"),
        (
            {"preprocessing__transforms__5": {"_target_": "Resized", "keys": "label", "spatial_size": [8, 8, 8]}},
            "fails on an image of noise: KeyError",
        ),
        (
            {"preprocessing__transforms__0": {"_target_": "LoadImaged", "keys": "image", "reverse_indexing": True}},
            "LoadImaged's reverse_indexing cannot be honoured",
        ),
        ({"preprocessing__transforms__0": {"_target_": "LoadImage"}}, "a volume comes from memory, through LoadImaged"),
        (
            {"postprocessing__transforms__2": {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x.numpy().tofile('MARK')"}},
            "tofile",
        ),
        ({"evaluator__prepare_batch": "$scripts.batch"}, "evaluator::prepare_batch: the loop is run here, without it"),
        ({"dataset__transform": "@other"}, "dataset::transform: must be @preprocessing"),
        ({"evaluator__iteration_update": "@x"}, "evaluator::iteration_update"),
        ({"evaluator__postprocessing": "@other"}, "evaluator::postprocessing: must be @postprocessing"),
        ({"handlers": [{"_target_": "PostProcessing", "transform": "@x"}]}, "handlers::0: the handler PostProcessing cannot be honoured"),
        ({"inferer__roi_size": [32, 32]}, "the inferer's window has 2 axes"),
        ({"postprocessing__transforms": [*STEPS[:1], *STEPS[2:]]}, "the bundle has no Invertd, so output.inverse must be"),
        ({"postprocessing__transforms": [STEPS[0], STEPS[2], STEPS[1]]}, "one channel of fractions"),
        (
            {
                "postprocessing__transforms": [
                    *STEPS[:3],
                    {"_target_": "MapLabelValued", "keys": "pred", "orig_labels": [1, 2], "target_labels": [2, 1]},
                ]
            },
            "so its values need not be channels: say values",
        ),
        ({"postprocessing__transforms": [STEPS[1], STEPS[3]]}, "gives raw scores"),
        ({"postprocessing__transforms": [{**STEPS[0], "softmax": False, "sigmoid": True}, STEPS[1]]}, 'output.kind must be "masks"'),
        (
            {"postprocessing__transforms": [*STEPS[:3], {"_target_": "CenterSpatialCropd", "keys": "pred", "roi_size": [8, 8, 8]}]},
            "does not return",
        ),
    ],
)
def test_what_cannot_be_honoured_is_named(tmp_path: Path, parts: dict[str, Any], reason: str) -> None:
    """What this node does not do as MONAI would is refused by its name, never skipped."""
    refused(tmp_path, changed(INFERENCE, **parts), reason)


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    """A bundle with three faults is refused with all three, so that nobody mends them one by one."""
    inference = changed(INFERENCE, evaluator__prepare_batch="@x", network_def__act="/etc/x", inferer___target_="os.system")
    refused(
        tmp_path,
        inference,
        r"evaluator::prepare_batch.*inferer: os\.system.*network_def::act|evaluator::prepare_batch.*network_def::act.*inferer",
    )


def test_sections_that_are_not_needed_never_run(tmp_path: Path) -> None:
    """Data lists, initialisation and the run of a bundle are not evaluated, whatever they hold, and no folder is made."""
    mark = tmp_path / "mark"
    plant = f"$__import__('os').system('touch {mark}')"
    inference = changed(
        INFERENCE, datalist=plant, initialize=[plant], run=[plant], output_dir=str(tmp_path / "out"), imports=["$import os", plant]
    )
    registry.load(bundles.card(bundles.write(tmp_path / "bundle", inference)), "cpu")
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"version": None, "monai_version": None}, "metadata: version, monai_version is missing"),
        ({"network_data_format__outputs": None}, "network_data_format.outputs is missing"),
        ({"network_data_format__outputs__pred__channel_def": None}, "channel_def must say what each channel is"),
        ({"network_data_format__outputs__pred__num_channels": 4}, r"has 4 channels, channel_def names \[0, 1, 2\]"),
        ({"network_data_format__outputs__pred": {"num_channels": 2, "channel_def": {"0": "background", "1": "x"}}}, "has no channel 2"),
        (
            {"network_data_format__outputs__pred": {"num_channels": 4, "channel_def": {str(i): f"c{i}" for i in range(4)}}},
            r"channels 0 \(c0\), 3 \(c3\)",
        ),
        (
            {"network_data_format__outputs__pred__channel_def": {"0": "background", "1": "second organ", "2": "first organ"}},
            "channel_def says 2 is First",
        ),
        ({"network_data_format__inputs__image__num_channels": 2}, r"the network does not take \(2, 32, 32, 32\)"),
    ],
)
def test_metadata_that_does_not_fit_is_bad(tmp_path: Path, parts: dict[str, Any], reason: str) -> None:
    """Metadata that lacks a key, or says other channels than the network or the card has, is refused with the key."""
    folder = bundles.write(tmp_path, metadata=changed(METADATA, **parts))
    with pytest.raises(BadCard, match=reason):
        registry.load(bundles.card(folder), "cpu")


def test_a_network_of_other_channels_is_bad(tmp_path: Path) -> None:
    """A network that gives more channels than its metadata says is found before the first patient."""
    folder = bundles.write(tmp_path, changed(INFERENCE, network_def__out_channels=4))
    with pytest.raises(BadCard, match=r"the network gives \(4, 32, 32, 32\), metadata says 3 channels"):
        registry.load(bundles.card(folder), "cpu")


@pytest.mark.parametrize("name", ["configs/metadata.json", "configs/inference.json", "models/model.pt"])
def test_a_file_that_changed_is_refused(tmp_path: Path, name: str) -> None:
    """One byte more in any file that is read is found before anything of it is used."""
    shelved = bundles.card(bundles.write(tmp_path))
    with (tmp_path / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(BadCard, match="has sha256"):
        registry.load(shelved, "cpu")


class Planted:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """Ask the unpickler to make the folder."""
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("whole", [True, False])
def test_weights_with_code_in_them_are_refused(tmp_path: Path, *, whole: bool) -> None:
    """A pickle that would run code is refused, as a bare pickle and inside torch's format, and the code does not run."""
    mark = tmp_path / "mark"
    folder = bundles.write(tmp_path, weights=pickle.dumps(Planted(mark)))
    if whole:
        torch.save({"model": Planted(mark)}, folder / "models/model.pt")
    with pytest.raises(BadCard, match=r"a pickle with code in it: it asks for|cannot be read as a checkpoint"):
        registry.load(bundles.card(folder), "cpu")
    assert not mark.exists()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    """Weights that do not fit are told with the first name that does not."""
    folder = bundles.write(tmp_path)
    torch.save({"nothing": torch.zeros(1)}, folder / "models/model.pt")
    with pytest.raises(BadCard, match="the weights do not fit the network"):
        registry.load(bundles.card(folder), "cpu")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "[runtime.options]",
            "[runtime.files.more]\npath = 'card.toml'\nsha256 = '" + "0" * 64 + "'\n[runtime.options]",
            r"runtime\.files\.more: .* has sha256",
        ),
        ("[runtime.options]", "[runtime.options]\nsurprise = 1", "surprise"),
        ("[runtime.options]", "[runtime.options]\nchannels = { 7 = 1 }", r"channels names labels \[7\]"),
        ("[runtime.options]", "[runtime.options]\nvalues = { 1 = 1, 2 = 2 }", "values is for a bundle that renumbers"),
        ("[runtime.options]", "[runtime.options]\nvalues = { 1 = 1 }", r"each of the labels \[1, 2\] a value of its own"),
        ("[runtime.options]", "[runtime.options]\nchannels = { 1 = 2 }", "channel_def says 1 is First organ"),
        ("[runtime.options]", '[runtime.options]\nkeys = { image = ["mr"] }', "keys uses the roles mr, the card has ct"),
        ("[runtime.options]", '[runtime.options]\noverrides = { "inferers::overlap" = 0.1 }', "overrides: inferers::overlap is not in"),
        ("[runtime.options]", '[runtime.options]\noverrides = { network_def = "$open(1)" }', "uses open, which is not allowed"),
        ('kind = "labels"', 'kind = "scores"', 'output.kind "scores" does not suit'),
        ('kind = "labels"', 'kind = "boxes"', "this runtime gives no boxes"),
        (
            'inverse = "runtime"',
            'inverse = "scores-linear"',
            'returns to the source grid by its own Invertd, so output.inverse must be "runtime"',
        ),
    ],
)
def test_a_card_that_does_not_fit_its_bundle_is_bad(tmp_path: Path, old: str, new: str, reason: str) -> None:
    """A wrong word in the card is named when the model is loaded."""
    folder = bundles.write(tmp_path)
    with pytest.raises(BadCard, match=reason):
        registry.load(bundles.card(folder, (old, new)), "cpu")
