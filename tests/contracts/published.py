"""Hyperparameters of published runs, by shipped config and stage: facts from the sources that each block names."""

from __future__ import annotations

from typing import NamedTuple


class Recipe(NamedTuple):
    """One stage: epochs (or steps), samples a step, the optimiser's values, the learning rate's schedule, the weights.

    ``schedule`` holds the epochs at which the learning rate falls and the factor; ``"linear"``, ``"poly"`` (power 0.9)
    over all steps, ``"cosine"`` over all epochs, or None. ``weights`` are those of the terms, in order, None where they
    change during training.
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    schedule: tuple[list[int], float] | str | None
    weights: list[float] | None
    steps: bool = False


HE, WIDE, DENSE = ([91, 136], 0.1), ([60, 120, 160], 0.2), ([150, 225], 0.1)
RATES, THIRDS = ([150, 180, 210], 0.1), ([30, 60, 90], 0.1)

# yoshitomo-matsubara/torchdistill at 3e4373c, configs/official/cifar10 and cifar100 (nlp-oss2023, *-final_run.yaml)
# and configs/sample/cifar10/kd and cifar100/kd (*-final_run.yaml).
CIFAR = {
    **{f"cifar10_resnet{depth}": [Recipe(182, 64, 0.1, 1e-4, HE, [1.0])] for depth in (20, 32, 44, 56, 110)},
    **{f"cifar10_wrn-{size}": [Recipe(200, 64, 0.1, 5e-4, WIDE, [1.0])] for size in ("16-8", "28-10", "40-4")},
    **{f"cifar100_wrn-{size}": [Recipe(200, 128, 0.1, 5e-4, WIDE, [1.0])] for size in ("16-8", "28-10", "40-4")},
    **{f"cifar{n}_densenet-bc-k12-d100": [Recipe(300, 64, 0.1, 1e-4, DENSE, [1.0])] for n in (10, 100)},
    "cifar10_kd_resnet20_densenet-bc-k12-d100": [Recipe(182, 64, 0.1, 1e-4, HE, [0.9, 0.1])],
    "cifar10_kd_wrn-40-1_wrn-40-4": [Recipe(200, 64, 0.1, 5e-4, WIDE, [0.9, 0.1])],
    "cifar100_kd_wrn-40-1_wrn-40-4": [Recipe(200, 128, 0.1, 5e-4, WIDE, [0.9, 0.1])],
    "cifar100_kd_densenet-bc-k12-d100_wrn-28-10": [Recipe(300, 64, 0.1, 1e-4, DENSE, [0.9, 0.1])],
}

# The protocol of HobbitLong/RepDistiller (train_student.py) for CIFAR-100, and the review's of dvlab-research/ReviewKD
# (CIFAR-100/script/reviewKD.sh); FT: RepDistiller's weight with the schedule of its paper; the rest of a method's own.
METHODS = {
    "cifar10_crd_kd_resnet20_resnet56": [Recipe(240, 64, 0.05, 5e-4, RATES, [1.0, 1.0, 0.8])],
    "cifar10_crd_resnet20_resnet56": [Recipe(240, 64, 0.05, 5e-4, RATES, [1.0, 0.8])],
    # huawei-noah/Data-Efficient-Model-Compression at 5e8f4e4, DAFL/DAFL-train.py and DAFL/README.md
    "cifar10_dafl_resnet18_resnet34": [Recipe(2000, 1024, 0.1, 5e-4, ([800, 1600], 0.1), [0.05, 5.0, 0.01, 1.0])],
    "cifar10_simkd_resnet20_resnet56": [Recipe(240, 64, 0.05, 5e-4, RATES, [1.0])],
    "cifar10_kr_resnet20_resnet56": [Recipe(240, 128, 0.1, 5e-4, RATES, None)],
    "cifar10_sskd_resnet20_resnet56": [
        Recipe(60, 64, 0.05, 5e-4, ([30, 45], 0.1), [1.0]),
        Recipe(240, 64, 0.05, 5e-4, RATES, [0.1, 0.9, 2.7, 10.0]),
    ],
}

# HobbitLong/RepDistiller at b84f547 (train_student.py, KD's weights in scripts/run_cifar_distill.sh): the pairs of its
# README's two tables, among which are those of megvii-research/mdistiller.
LIKE = "wrn-40-2_wrn-16-2 wrn-40-2_wrn-40-1 resnet56_resnet20 resnet110_resnet20 resnet110_resnet32"
LIKE += " resnet32x4_resnet8x4 vgg13_vgg8 resnet50_vgg8"
MOBILE = "vgg13_mobilenetv2 resnet50_mobilenetv2 resnet32x4_shufflenetv1 resnet32x4_shufflenetv2 wrn-40-2_shufflenetv1"
BENCHMARK = {
    f"cifar100_{pair}": [Recipe(240, 64, lr, 5e-4, RATES, [0.1, 0.9])]
    for pairs, lr in ((LIKE, 0.05), (MOBILE, 0.01))
    for pair in pairs.split()
}

# torchdistill, configs/official/ilsvrc2012 (rrpr2020, nlp-oss2023, aaai2024): batches and rates are those of the logs,
# 3 GPUs with `-adjust_lr` for AT, KD, KR and Tf-KD, 3 GPUs for CRD, L2, PAD and SSKD, one for FT and SRD; of
# configs/sample/ilsvrc2012, which has no logs, DIST, DIST+, ICKD and KD with standardised logits as they stand there.
IMAGENET = {
    "imagenet_at_resnet18_resnet34": [Recipe(100, 768, 0.3, 1e-4, THIRDS, [1.0, 1000.0, 1000.0])],
    "imagenet_crd_resnet18_resnet34": [Recipe(100, 255, 0.1, 1e-4, THIRDS, [1.0, 0.8])],
    "imagenet_dist_resnet18_resnet34": [Recipe(100, 256, 0.1, 1e-4, THIRDS, [1.0, 2.0])],
    "imagenet_dist_plus_resnet18_resnet34": [Recipe(100, 256, 0.1, 1e-4, THIRDS, [1.0, 2.0, 2.0, 2.0])],
    "imagenet_ft_resnet18_resnet34": [
        Recipe(1, 256, 0.01, 1e-4, None, [1.0]),
        Recipe(90, 256, 0.1, 1e-4, THIRDS, [1.0, 1000.0]),
    ],
    "imagenet_ickd_resnet18_resnet34": [Recipe(100, 256, 2e-4, 5e-4, THIRDS, [0.5, 0.5, 500.0])],
    "imagenet_kd_resnet18_resnet34": [Recipe(100, 768, 0.3, 1e-4, THIRDS, [0.5, 0.5])],
    "imagenet_kd_ls_resnet18_resnet34": [Recipe(100, 512, 0.2, 1e-4, THIRDS, [0.5, 9.0])],
    "imagenet_kr_resnet18_resnet34": [Recipe(100, 96, 0.075, 1e-4, THIRDS, [1.0] * 6)],
    "imagenet_l2_resnet18_resnet34": [Recipe(90, 513, 0.2, 1e-4, ([30, 60], 0.1), [1.0, 15.0])],
    "imagenet_pad_resnet18_resnet34": [
        Recipe(90, 513, 0.2, 1e-4, ([30, 60], 0.1), [1.0, 15.0]),
        Recipe(30, 513, 0.002, 1e-4, ([30], 0.1), [1.0, 1.0]),
    ],
    "imagenet_srd_resnet18_resnet34": [Recipe(100, 256, 0.1, 1e-4, THIRDS, [1.0, 1.0, 2.0])],
    "imagenet_sskd_resnet18_resnet34": [
        Recipe(30, 255, 0.1, 5e-4, ([10, 20], 0.1), [1.0]),
        Recipe(100, 255, 0.1, 5e-4, THIRDS, [1.0, 0.9, 2.7, 10.0]),
    ],
    "imagenet_tfkd_resnet18_resnet18": [Recipe(90, 768, 0.3, 1e-4, ([30, 60, 80], 0.1), [0.9, 0.1])],
}

# megvii-research/mdistiller at a08d46f, configs/imagenet/r50_mv1.
IMAGENET |= {
    "imagenet_at_mobilenetv1_resnet50": [Recipe(100, 512, 0.2, 1e-4, THIRDS, [1.0, 1000.0])],
    "imagenet_crd_mobilenetv1_resnet50": [Recipe(100, 256, 0.1, 1e-4, THIRDS, [1.0, 0.8])],
    "imagenet_dkd_mobilenetv1_resnet50": [Recipe(100, 512, 0.2, 1e-4, THIRDS, [1.0, 1.0])],
    "imagenet_ofd_mobilenetv1_resnet50": [Recipe(100, 128, 0.05, 1e-4, THIRDS, [1.0, 1e-4])],
    "imagenet_kr_mobilenetv1_resnet50": [Recipe(100, 256, 0.1, 1e-4, THIRDS, [1.0, 8.0, 8.0])],
    "imagenet_kd_mobilenetv1_resnet50": [Recipe(100, 512, 0.2, 1e-4, THIRDS, [0.5, 0.5])],
}

# pytorch/vision references/classification (ResNet-50's second weights), and facebookresearch/deit main.py.
IMAGENET |= {
    "imagenet_resnet50": [Recipe(600, 1024, 0.5, 2e-5, "cosine", [1.0])],
    "imagenet_kd_deit-tiny_regnety160": [Recipe(300, 1024, 1e-3, 0.05, "cosine", [0.9, 0.1])],
    **{
        f"imagenet_{kind}_deit-tiny_regnety160": [Recipe(300, 1024, 1e-3, 0.05, "cosine", [0.5, 0.5])]
        for kind in ("hard", "token")
    },
}

# torchdistill, configs/official/coco2017 (the log of KTAAD: 2,443 steps of 48 images, 4,886 of 24) and pascal_voc2012;
# pytorch/vision references/segmentation for COCO (8 GPUs with 4 images each); winycg/CIRKD for VOC with SBD.
SEG = {
    "coco2017_ktaad_lraspp_deeplabv3_resnet50": [
        Recipe(1, 48, 0.3, 1e-4, None, [1.0, 1e-7]),
        Recipe(30, 24, 0.021, 1e-6, "poly", [1.0, 50.0, 1.0]),
    ],
    **{f"voc2012_deeplabv3_resnet{n}": [Recipe(30, 16, 0.001, 1e-4, "poly", [1.0, 0.5])] for n in (50, 101)},
    **{f"coco2017_{name}_resnet50": [Recipe(30, 32, 0.02, 1e-4, "poly", [1.0, 0.5])] for name in ("deeplabv3", "fcn")},
    **{
        f"voc2012_{name}_resnet18_resnet101": [Recipe(40000, 16, 0.02, 1e-4, "poly", None, steps=True)]
        for name in ("cirkd", "cwd", "dist", "ifvd", "kd", "mgd", "skd")
    },
}

# pytorch/vision references/detection (README.md, 8 GPUs): 2 images each, 4 for SSD300 and 24 for SSDLite. The recipe of
# Faster R-CNN and RetinaNet with ResNet-50 is that of our own with ResNet-101, too.
TWICE = ([16, 22], 0.1)
BACKBONES = (
    "fasterrcnn_resnet50 fasterrcnn_mobilenetv3 fasterrcnn_mobilenetv3_320 maskrcnn_resnet50 faster_rcnn_resnet101"
)
DETECTION = {
    **{f"coco2017_{name}": [Recipe(26, 16, 0.02, 1e-4, TWICE, [1.0])] for name in BACKBONES.split()},
    **{
        f"coco2017_{name}": [Recipe(26, 16, 0.01, 1e-4, TWICE, [1.0])]
        for name in ("retinanet_resnet50", "fcos_resnet50", "retinanet_resnet101", "fcos_resnet101")
    },
    "coco2017_gfl_resnet50": [Recipe(12, 16, 0.01, 1e-4, ([8, 11], 0.1), [1.0])],
    "coco2017_gfl_resnet101": [Recipe(24, 16, 0.01, 1e-4, TWICE, [1.0])],
    "coco2017_ld_gfl_resnet50_resnet101": [Recipe(12, 16, 0.01, 1e-4, ([8, 11], 0.1), [1.0, 0.25, 0.0625, 0.125])],
    "coco2017_crosskd_fcos_resnet50_resnet101": [Recipe(26, 16, 0.01, 1e-4, TWICE, [1.0, 0.4, 0.75])],
    "coco2017_crosskd_gfl_resnet50_resnet101": [Recipe(12, 16, 0.01, 1e-4, ([8, 11], 0.1), [1.0, 1.0, 4.0])],
    "coco2017_keypointrcnn_resnet50": [Recipe(46, 16, 0.02, 1e-4, ([36, 43], 0.1), [1.0])],
    "coco2017_ssd300_vgg16": [Recipe(120, 32, 0.002, 5e-4, ([80, 110], 0.1), [1.0])],
    "coco2017_ssdlite320_mobilenetv3": [Recipe(660, 192, 0.15, 4e-5, "cosine", [1.0])],
}

# torchdistill, configs/official/coco2017 (rrpr2020; the log of GHND: 9,772 steps of 12 images, 4 on each of 3 GPUs) and
# configs/sample/coco2017 (one GPU); for the rest yoshitomo-matsubara/hnd-ghnd-object-detectors at 7ebbe03, config. A
# sum over a GPU's 4 images is 4 times the mean over images.
FIFTHS = ([5, 15], 0.1)
DETECTION |= {
    **{
        f"coco2017_ghnd_{name}_resnet50": [Recipe(20, 12, 1e-3, 0.0, FIFTHS, [4.0] * 4)]
        for name in ("fasterrcnn", "maskrcnn")
    },
    **{
        f"coco2017_ghnd_{name}_resnet50_one_gpu": [Recipe(20, 4, 1e-3, 0.0, FIFTHS, [4.0] * 4)]
        for name in ("fasterrcnn", "maskrcnn")
    },
    "coco2017_ghnd_keypointrcnn_resnet50": [Recipe(35, 4, 1e-3, 0.0, ([9, 27], 0.1), [4.0] * 4)],
    "coco2017_hnd_fasterrcnn_resnet50": [Recipe(20, 4, 1e-3, 0.0, FIFTHS, [4.0])],
    "coco2017_ft_fasterrcnn_resnet18_resnet50": [
        Recipe(1, 4, 1e-4, 5e-4, None, [4.0]),
        Recipe(19, 4, 1e-4, 5e-4, ([5, 10], 0.1), [1.0, 1000.0]),
    ],
}


def _glue(epochs: int, batch_size: int, lr: float, weights: list[float]) -> list[Recipe]:
    return [Recipe(epochs, batch_size, lr, 0.0, "linear", weights)]


# The same, configs/official/glue (nlp-oss2023): base, large, and base from large with tau and alpha. Soft targets alone
# (`kd_soft`) are what its script trains: the divergence without the factor tau squared.
_GLUE = {
    "cola": ((3, 16, 5e-5), (3, 16, 5e-5), (3, 16, 1e-4, 7.0, 0.9)),
    "sst2": ((3, 16, 3e-5), (3, 32, 3e-5), (3, 32, 1e-4, 3.0, 0.9)),
    "mrpc": ((5, 32, 5e-5), (5, 16, 3e-5), (5, 16, 1e-4, 11.0, 0.9)),
    "qqp": ((3, 16, 5e-5), (3, 32, 2e-5), (3, 32, 1e-4, 5.0, 0.9)),
    "mnli": ((3, 16, 2e-5), (3, 16, 2e-5), (3, 32, 1e-4, 5.0, 0.9)),
    "qnli": ((3, 16, 5e-5), (3, 16, 2e-5), (3, 32, 5e-5, 1.0, 0.5)),
    "rte": ((4, 16, 5e-5), (3, 8, 2e-5), (3, 32, 1e-4, 5.0, 0.9)),
    "wnli": ((5, 32, 3e-5), (5, 8, 4e-5), (5, 32, 1e-4, 5.0, 0.9)),
}
GLUE = {
    "stsb_base": _glue(3, 32, 5e-5, [1.0]),
    "stsb_large": _glue(3, 32, 3e-5, [1.0]),
    "stsb_kd": _glue(3, 32, 3e-5, [1.0, 1.0]),
}
TEMPERATURES = {}
for _task, (_base, _large, (_epochs, _batch, _lr, _tau, _alpha)) in _GLUE.items():
    GLUE[f"{_task}_base"] = _glue(*_base, [1.0])
    GLUE[f"{_task}_large"] = _glue(*_large, [1.0])
    GLUE[f"{_task}_kd"] = _glue(_epochs, _batch, _lr, [_alpha, round(1 - _alpha, 9)])
    GLUE[f"{_task}_kd_soft"] = _glue(_epochs, _batch, _lr, [1 / _tau**2])
    TEMPERATURES |= {f"{_task}_kd": _tau, f"{_task}_kd_soft": _tau}

PUBLISHED = {
    **{f"vision/{name}": stages for name, stages in (CIFAR | METHODS | BENCHMARK | IMAGENET).items()},
    **{f"seg/{name}": stages for name, stages in SEG.items()},
    **{f"glue/{name}": stages for name, stages in GLUE.items()},
    **{f"detection/{name}": stages for name, stages in DETECTION.items()},
}
OWN = {
    "detection": "coco2017_at_retinanet_resnet50_resnet101 coco2017_crosskd_retinanet_resnet50_resnet101 "
    "coco2017_cwd_faster_rcnn_resnet50_resnet101 coco2017_fgd_faster_rcnn_resnet50_resnet101 "
    "coco2017_fgd_retinanet_resnet50_resnet101 coco2017_hint_faster_rcnn_mobilenetv3_resnet50 "
    "coco2017_mgd_retinanet_resnet50_resnet101 coco2017_pkd_faster_rcnn_mobilenetv3_resnet50 "
    "coco2017_pkd_faster_rcnn_resnet50_resnet101 coco2017_pkd_retinanet_resnet50_resnet101 scenes_alone "
    "scenes_crosskd scenes_crosskd_gfl scenes_cwd scenes_fgd scenes_fitnet scenes_gfl scenes_gfl_teacher scenes_kd "
    "scenes_ld scenes_mgd scenes_pkd scenes_teacher",
    "glue": "example_alone example_kd example_teacher sst2_distilbert sst2_minilm sst2_pkd sst2_tinybert",
    "seg": "scenes_alone scenes_cwd scenes_kd scenes_teacher voc2012_small voc2012_small_cwd voc2012_small_kd",
    "vision": "digits_alone digits_dafl digits_kd digits_methods digits_teacher cifar10_at_resnet20_resnet56 "
    "cifar10_ft_resnet20_resnet56 cifar10_hint_resnet20_resnet56 cifar10_kd_resnet20_resnet56 cifar10_methods "
    "cifar10_mutual_resnet20_resnet20 cifar10_multi_teacher_resnet20_resnet56_resnet110 cifar10_one_resnet20 "
    "cifar10_subset_methods unlabelled_dinov2_resnet18",
}
"""Recipes of this repository's own: of made-up data, or of a method on data or models that its authors do not have."""
