"""What timm (PyTorch Image Models) publishes.

Most files have the first digits of their SHA-256 in their names; those that are only on Hugging Face's hub are plain
safetensors, and timm states no hash of them. Its ResNets, ResNeXts, DenseNets and Inception-v3 are torchvision's
networks, name for name, so what it has trained for them is listed under that variant by timm's own tags.
"""

from __future__ import annotations

import math
import re

from glimpse.models.prestem.recipe import Filter, Recipe
from glimpse.models.published import recipes
from glimpse.models.published.checkpoint import Checkpoint, Checksum

_RELEASES = "https://github.com/huggingface/pytorch-image-models/releases/download/"
_WEIGHTS = _RELEASES + "v0.1-weights/"
_RSB = _RELEASES + "v0.1-rsb-weights/"  # "ResNet strikes back", arXiv:2110.00476
_CADENE = _RELEASES + "v0.1-cadene/"
_GLUON = "https://github.com/rwightman/pytorch-pretrained-gluonresnet/releases/download/v0.1/"
_FACEBOOK = "https://dl.fbaipublicfiles.com/semiweaksupervision/model_files/"
_HUB = "https://huggingface.co/timm/{}/resolve/main/model.safetensors"
_SOURCE = "https://github.com/huggingface/pytorch-image-models/blob/main/results/results-imagenet.csv"
_NC = "CC-BY-NC-4.0"  # not for commercial use


# timm's network -> ours: architecture, variant, and, where no other publisher has the default, timm's default tag.
_NETWORKS = {
    "resnet18": ("resnet18", "torchvision", ""),
    "resnet34": ("resnet34", "torchvision", ""),
    "resnet50": ("resnet50", "torchvision", ""),
    "resnet101": ("resnet101", "torchvision", ""),
    "resnet152": ("resnet152", "torchvision", ""),
    "resnext50_32x4d": ("resnext50", "torchvision", ""),
    "densenet121": ("densenet121", "torchvision", ""),
    "inception_v3": ("inception_v3", "torchvision", ""),
    "legacy_seresnet34": ("se_resnet34", "timm", "in1k"),
    "seresnet50": ("se_resnet50", "timm", "a1_in1k"),
    "legacy_seresnet50": ("se_resnet50_legacy", "timm", "in1k"),
    "seresnext50_32x4d": ("se_resnext50", "timm", "racm_in1k"),
    "legacy_senet154": ("senet154", "timm", "in1k"),
    "inception_v4": ("inception_v4", "timm", "tf_in1k"),
    "inception_resnet_v2": ("inception_resnet_v2", "timm", "tf_in1k"),
    "legacy_xception": ("xception", "timm", "tf_in1k"),
    "mobilenetv1_100": ("mobilenet", "timm", "ra4_e3600_r224_in1k"),
}


def _recipe(size: int, crop_share: float, *, resample: Filter = "bicubic", half: bool = False) -> Recipe:
    return recipes.torch(
        size,
        math.floor(size / crop_share),  # as timm's `transforms_imagenet_eval` rounds it
        resample=resample,
        mean=recipes.HALF if half else recipes.IMAGENET_MEAN,
        std=recipes.HALF if half else recipes.IMAGENET_STD,
    )


_BICUBIC = _recipe(224, 0.875)
_BILINEAR = _recipe(224, 0.875, resample="bilinear")
_WIDE = _recipe(224, 0.95)
_SMALL = _recipe(160, 0.95)
_TENSORFLOW = _recipe(299, 0.875, half=True)


def _row(upstream: str, url: str, top1: float, top5: float, recipe: Recipe) -> Checkpoint:
    network, _, tag = upstream.partition(".")
    architecture, variant, default = _NETWORKS[network]
    digits = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    return Checkpoint(
        architecture=architecture,
        variant=variant,
        tag="imagenet" if tag == default else tag,
        alias=tag if tag == default else "",
        publisher="timm",
        upstream=upstream,
        url=url.format(upstream),
        file=f"{upstream}.safetensors" if url == _HUB else url.rpartition("/")[2],
        checksum=Checksum("sha256", digits[1]) if digits else None,
        recipe=recipe,
        top1=top1,
        top5=top5,
        source=_SOURCE,
        licence=_NC if url.startswith(_FACEBOOK) else "Apache-2.0",
    )


ROWS = (
    _row("resnet18.a1_in1k", _RSB + "resnet18_a1_0-d63eafa0.pth", 71.504, 90.086, _WIDE),
    _row("resnet18.a2_in1k", _RSB + "resnet18_a2_0-b61bd467.pth", 70.634, 89.486, _WIDE),
    _row("resnet18.a3_in1k", _RSB + "resnet18_a3_0-40c531c8.pth", 65.67, 86.268, _SMALL),
    _row(
        "resnet18.fb_ssl_yfcc100m_ft_in1k",
        _FACEBOOK + "semi_supervised_resnet18-d92f0530.pth",
        72.636,
        91.416,
        _BILINEAR,
    ),
    _row(
        "resnet18.fb_swsl_ig1b_ft_in1k",
        _FACEBOOK + "semi_weakly_supervised_resnet18-118f1556.pth",
        73.286,
        91.754,
        _BILINEAR,
    ),
    _row("resnet18.gluon_in1k", _GLUON + "gluon_resnet18_v1b-0757602b.pth", 70.844, 89.75, _BICUBIC),
    _row("resnet34.a1_in1k", _RSB + "resnet34_a1_0-46f8f793.pth", 76.42, 92.896, _WIDE),
    _row("resnet34.a2_in1k", _RSB + "resnet34_a2_0-82d47d71.pth", 75.52, 92.454, _WIDE),
    _row("resnet34.a3_in1k", _RSB + "resnet34_a3_0-a20cabb6.pth", 70.58, 89.54, _SMALL),
    _row("resnet34.bt_in1k", _WEIGHTS + "resnet34-43635321.pth", 75.176, 92.166, _BICUBIC),
    _row("resnet34.gluon_in1k", _GLUON + "gluon_resnet34_v1b-c6d82d59.pth", 74.574, 91.988, _BICUBIC),
    _row("resnet34.ra4_e3600_r224_in1k", _HUB, 77.492, 93.498, _recipe(224, 0.9, half=True)),
    _row("resnet50.a1_in1k", _RSB + "resnet50_a1_0-14fe96d1.pth", 80.382, 94.598, _WIDE),
    _row("resnet50.a1h_in1k", _RSB + "resnet50_a1h2_176-001a1197.pth", 79.264, 94.498, _recipe(176, 0.9)),
    _row("resnet50.a2_in1k", _RSB + "resnet50_a2_0-a2746f79.pth", 79.828, 94.56, _WIDE),
    _row("resnet50.a3_in1k", _RSB + "resnet50_a3_0-59cae1ef.pth", 75.994, 92.494, _SMALL),
    _row("resnet50.am_in1k", _WEIGHTS + "resnet50_am-6c502b37.pth", 79.004, 94.392, _BICUBIC),
    _row("resnet50.b1k_in1k", _RSB + "resnet50_b1k-532a802a.pth", 79.564, 94.622, _WIDE),
    _row("resnet50.b2k_in1k", _RSB + "resnet50_b2k-1ba180c1.pth", 79.388, 94.58, _WIDE),
    _row("resnet50.bt_in1k", _WEIGHTS + "rw_resnet50-86acaeed.pth", 78.444, 94.274, _BICUBIC),
    _row("resnet50.c1_in1k", _RSB + "resnet50_c1-5ba5e060.pth", 79.766, 94.954, _WIDE),
    _row("resnet50.c2_in1k", _RSB + "resnet50_c2-d01e05b2.pth", 79.868, 94.862, _WIDE),
    _row("resnet50.d_in1k", _RSB + "resnet50_d-f39db8af.pth", 79.904, 94.666, _WIDE),
    _row(
        "resnet50.fb_ssl_yfcc100m_ft_in1k",
        _FACEBOOK + "semi_supervised_resnet50-08389792.pth",
        79.252,
        94.826,
        _BILINEAR,
    ),
    _row(
        "resnet50.fb_swsl_ig1b_ft_in1k",
        _FACEBOOK + "semi_weakly_supervised_resnet50-16a12f1b.pth",
        81.146,
        95.98,
        _BILINEAR,
    ),
    _row("resnet50.gluon_in1k", _GLUON + "gluon_resnet50_v1b-0ebe02e2.pth", 77.58, 93.704, _BICUBIC),
    _row("resnet50.ra_in1k", _WEIGHTS + "resnet50_ra-85ebb6e5.pth", 78.82, 94.314, _BICUBIC),
    _row("resnet50.ram_in1k", _WEIGHTS + "resnet50_ram-a26f946b.pth", 79.034, 94.386, _BICUBIC),
    _row("resnet101.a1_in1k", _RSB + "resnet101_a1_0-cdcb52a9.pth", 81.494, 95.164, _WIDE),
    _row("resnet101.a1h_in1k", _RSB + "resnet101_a1h-36d3f2aa.pth", 81.95, 95.76, _WIDE),
    _row("resnet101.a2_in1k", _RSB + "resnet101_a2_0-6edb36c7.pth", 81.344, 95.198, _WIDE),
    _row("resnet101.a3_in1k", _RSB + "resnet101_a3_0-1db14157.pth", 77.928, 93.686, _SMALL),
    _row("resnet101.gluon_in1k", _GLUON + "gluon_resnet101_v1b-3b017079.pth", 79.306, 94.538, _BICUBIC),
    _row("resnet152.a1_in1k", _RSB + "resnet152_a1_0-2eee8a7a.pth", 81.998, 95.294, _WIDE),
    _row("resnet152.a1h_in1k", _RSB + "resnet152_a1h-dc400468.pth", 82.818, 96.124, _WIDE),
    _row("resnet152.a2_in1k", _RSB + "resnet152_a2_0-b4c6978f.pth", 81.764, 95.27, _WIDE),
    _row("resnet152.a3_in1k", _RSB + "resnet152_a3_0-134d4688.pth", 78.896, 94.14, _SMALL),
    _row("resnet152.gluon_in1k", _GLUON + "gluon_resnet152_v1b-c1edb0dd.pth", 79.712, 94.72, _BICUBIC),
    _row("resnext50_32x4d.a1_in1k", _RSB + "resnext50_32x4d_a1_0-b5a91a1d.pth", 80.526, 94.458, _WIDE),
    _row("resnext50_32x4d.a1h_in1k", _RSB + "resnext50_32x4d_a1h-0146ab0a.pth", 81.14, 95.32, _WIDE),
    _row("resnext50_32x4d.a2_in1k", _RSB + "resnext50_32x4d_a2_0-efc76add.pth", 80.444, 94.63, _WIDE),
    _row("resnext50_32x4d.a3_in1k", _RSB + "resnext50_32x4d_a3_0-3e450271.pth", 77.732, 93.314, _SMALL),
    _row(
        "resnext50_32x4d.fb_ssl_yfcc100m_ft_in1k",
        _FACEBOOK + "semi_supervised_resnext50_32x4-ddb3e555.pth",
        80.316,
        95.386,
        _BILINEAR,
    ),
    _row(
        "resnext50_32x4d.fb_swsl_ig1b_ft_in1k",
        _FACEBOOK + "semi_weakly_supervised_resnext50_32x4-72679e44.pth",
        82.162,
        96.224,
        _BILINEAR,
    ),
    _row("resnext50_32x4d.gluon_in1k", _GLUON + "gluon_resnext50_32x4d-e6a097c1.pth", 79.354, 94.424, _BICUBIC),
    _row("resnext50_32x4d.ra_in1k", _WEIGHTS + "resnext50_32x4d_ra-d733960d.pth", 79.8, 94.608, _BICUBIC),
    _row("densenet121.ra_in1k", _HUB, 75.574, 92.648, _BICUBIC),
    _row("inception_v3.gluon_in1k", _HUB, 78.806, 94.372, _recipe(299, 0.875)),
    _row("inception_v3.tf_adv_in1k", _HUB, 77.598, 93.726, _TENSORFLOW),
    _row("inception_v3.tf_in1k", _HUB, 77.866, 93.644, _TENSORFLOW),
    _row("legacy_seresnet34.in1k", _WEIGHTS + "seresnet34-a4004e63.pth", 74.788, 92.134, _BILINEAR),
    _row("seresnet50.a1_in1k", _RSB + "seresnet50_a1_0-ffa00869.pth", 80.012, 94.704, _WIDE),
    _row("seresnet50.a2_in1k", _RSB + "seresnet50_a2_0-850de0d9.pth", 80.102, 94.72, _WIDE),
    _row("seresnet50.a3_in1k", _RSB + "seresnet50_a3_0-317ecd56.pth", 75.104, 92.096, _SMALL),
    _row("seresnet50.ra2_in1k", _WEIGHTS + "seresnet50_ra_224-8efdb4bb.pth", 80.26, 95.068, _BICUBIC),
    _row("legacy_seresnet50.in1k", _CADENE + "se_resnet50-ce0d4300.pth", 77.65, 93.732, _BILINEAR),
    _row("seresnext50_32x4d.gluon_in1k", _GLUON + "gluon_seresnext50_32x4d-90cf2d6e.pth", 79.916, 94.816, _BICUBIC),
    _row("seresnext50_32x4d.racm_in1k", _WEIGHTS + "seresnext50_32x4d_racm-a304a460.pth", 81.268, 95.624, _BICUBIC),
    _row("legacy_senet154.in1k", _WEIGHTS + "legacy_senet154-e9eb9fe6.pth", 81.32, 95.502, _BILINEAR),
    _row("inception_v4.tf_in1k", _HUB, 80.144, 94.982, _TENSORFLOW),
    _row("inception_resnet_v2.tf_in1k", _HUB, 80.462, 95.308, _recipe(299, 0.8975, half=True)),
    _row(
        "legacy_xception.tf_in1k", _CADENE + "xception-43020ad28.pth", 79.058, 94.396, _recipe(299, 0.8975, half=True)
    ),
    _row("mobilenetv1_100.ra4_e3600_r224_in1k", _HUB, 75.388, 92.31, _recipe(224, 0.875, half=True)),
)
