"""Released checkpoints by name: address, digest, licence, and the AP that their authors publish.

AP is that of COCO val2017 in per cent, from the model zoos and torchvision's weight metadata.
"""

from functools import cache
from typing import NamedTuple


class Release(NamedTuple):
    """One released file."""

    name: str  # origin:model
    address: str
    digest: str  # "sha256:" or "md5:" and its first digits; "md5sum" if it is in a file of that suffix beside it
    size: int  # bytes that it may have at most
    licence: str
    box_ap: float | None
    mask_ap: float | None
    keypoint_ap: float | None
    settings: tuple[str, ...] = ()  # what its names and shapes do not show

    @property
    def file(self) -> str:
        """Its place in the cache."""
        origin, _, model = self.name.partition(":")
        return f"{origin}/{model}.{self.address.rpartition('.')[2]}"


_CC_BY_SA = "CC BY-SA 3.0"
_UNSTATED = "not stated by torchvision, whose code is BSD-3-Clause"
_MIB = 2**20
_LIMIT = 2048 * _MIB  # if the size is not published; the largest have about 1 GiB

_META = "https://dl.fbaipublicfiles.com"
_TORCH = "https://download.pytorch.org/models"
_ONE_SCALE = ("pool.aligned=false", "pool.sampling=2", "rpn.smooth_l1_beta=0.111111", "box_head.smooth_l1_beta=1.0")
_SETTINGS = {
    "torchvision:keypointrcnn_resnet50_fpn_legacy": ("backbone.norm_eps=1e-5",),
    "detectron2:faster_rcnn_R_50_FPN_noaug_1x": _ONE_SCALE,
    "detectron2:mask_rcnn_R_50_FPN_noaug_1x": _ONE_SCALE,
    "detectron2:keypoint_rcnn_R_50_FPN_legacy_1x": _ONE_SCALE,
}

# model, number, stamp; box, mask and keypoint AP
_DETECTRON = """
e2e_mask_rcnn_R-50-C4_1x 35858791 01_45_57.ZgkA7hPB 35.8 31.4 -
e2e_mask_rcnn_R-50-C4_2x 35858828 01_46_47.HBThTerB 37.8 32.8 -
e2e_mask_rcnn_R-50-FPN_1x 35858933 01_48_14.DzEQe4wC 37.7 33.9 -
e2e_mask_rcnn_R-50-FPN_2x 35859007 01_49_07.By8nQcCH 38.6 34.5 -
e2e_mask_rcnn_R-101-FPN_1x 35861795 02_31_37.KqyEK4tT 40.0 35.9 -
e2e_mask_rcnn_R-101-FPN_2x 35861858 02_32_51.SgT4y1cO 40.9 36.4 -
e2e_mask_rcnn_X-101-64x4d-FPN_1x 36494496 07_50_11.fkwVtEvg 42.4 37.5 -
e2e_mask_rcnn_X-101-64x4d-FPN_2x 35859745 02_00_30.ESWbND2w 42.2 37.2 -
e2e_mask_rcnn_X-101-32x8d-FPN_1x 36761843 06_35_59.RZotkLKI 42.1 37.3 -
e2e_mask_rcnn_X-101-32x8d-FPN_2x 36762092 06_37_59.DM5gJYRF 41.7 36.9 -
e2e_faster_rcnn_R-50-C4_1x 35857197 01_33_49.iAX0mXvW 34.8 - -
e2e_faster_rcnn_R-50-C4_2x 35857281 01_34_56.ScPH0Z4r 36.5 - -
e2e_faster_rcnn_R-50-FPN_1x 35857345 01_36_30.cUF7QR7I 36.7 - -
e2e_faster_rcnn_R-50-FPN_2x 35857389 01_37_22.KSeq0b5q 37.9 - -
e2e_faster_rcnn_R-101-FPN_1x 35857890 01_38_50.sNxI7sX7 39.4 - -
e2e_faster_rcnn_R-101-FPN_2x 35857952 01_39_49.JPwJDh92 39.8 - -
e2e_faster_rcnn_X-101-64x4d-FPN_1x 35858015 01_40_54.1xc565DE 41.5 - -
e2e_faster_rcnn_X-101-64x4d-FPN_2x 35858198 01_41_46.CX2InaoG 40.8 - -
e2e_faster_rcnn_X-101-32x8d-FPN_1x 36761737 06_31_39.5MIHi1fZ 41.3 - -
e2e_faster_rcnn_X-101-32x8d-FPN_2x 36761786 06_33_22.VqFNuxk6 40.6 - -
e2e_keypoint_rcnn_R-50-FPN_1x 37697547 08_42_54.kdzV35ao 53.6 - 64.2
e2e_keypoint_rcnn_R-50-FPN_s1x 37697714 08_44_03.qrQ0ph6M 54.3 - 65.4
e2e_keypoint_rcnn_R-101-FPN_1x 37697946 08_45_06.Y14KqbST 54.5 - 64.8
e2e_keypoint_rcnn_R-101-FPN_s1x 37698009 08_45_57.YkrJgP6O 55.3 - 65.8
e2e_keypoint_rcnn_X-101-64x4d-FPN_1x 37732355 16_56_16.yv4t4W8N 56.3 - 66.0
e2e_keypoint_rcnn_X-101-64x4d-FPN_s1x 37732415 16_57_48.Spqtq3Sf 56.9 - 66.8
e2e_keypoint_rcnn_X-101-32x8d-FPN_1x 37792158 16_54_16.LgZeo40k 56.0 - 66.0
e2e_keypoint_rcnn_X-101-32x8d-FPN_s1x 37732318 16_55_09.Lx8H5JVu 56.9 - 67.0
"""
# folder, model, number, first digits of MD5; AP
_DETECTRON2 = """
COCO-InstanceSegmentation mask_rcnn_R_50_C4_1x 137259246 9243eb 36.8 32.2 -
COCO-InstanceSegmentation mask_rcnn_R_50_DC5_1x 137260150 4f86c3 38.3 34.2 -
COCO-InstanceSegmentation mask_rcnn_R_50_FPN_1x 137260431 a54504 38.6 35.2 -
COCO-InstanceSegmentation mask_rcnn_R_50_C4_3x 137849525 4ce675 39.8 34.4 -
COCO-InstanceSegmentation mask_rcnn_R_50_DC5_3x 137849551 84107b 40.0 35.9 -
COCO-InstanceSegmentation mask_rcnn_R_50_FPN_3x 137849600 f10217 41.0 37.2 -
COCO-InstanceSegmentation mask_rcnn_R_101_C4_3x 138363239 a2914c 42.6 36.7 -
COCO-InstanceSegmentation mask_rcnn_R_101_DC5_3x 138363294 0464b7 41.9 37.3 -
COCO-InstanceSegmentation mask_rcnn_R_101_FPN_3x 138205316 a3ec72 42.9 38.6 -
COCO-InstanceSegmentation mask_rcnn_X_101_32x8d_FPN_3x 139653917 2d9806 44.3 39.5 -
COCO-Keypoints keypoint_rcnn_R_50_FPN_1x 137261548 04e291 53.6 - 64.0
COCO-Keypoints keypoint_rcnn_R_50_FPN_3x 137849621 a6e10b 55.4 - 65.5
COCO-Keypoints keypoint_rcnn_R_101_FPN_3x 138363331 997cc7 56.4 - 66.1
COCO-Keypoints keypoint_rcnn_X_101_32x8d_FPN_3x 139686956 5ad38f 57.3 - 66.0
COCO-Detection faster_rcnn_R_50_C4_1x 137257644 721ade 35.7 - -
COCO-Detection faster_rcnn_R_50_DC5_1x 137847829 51d356 37.3 - -
COCO-Detection faster_rcnn_R_50_FPN_1x 137257794 b275ba 37.9 - -
COCO-Detection faster_rcnn_R_50_C4_3x 137849393 f97cb7 38.4 - -
COCO-Detection faster_rcnn_R_50_DC5_3x 137849425 68d202 39.0 - -
COCO-Detection faster_rcnn_R_50_FPN_3x 137849458 280758 40.2 - -
COCO-Detection faster_rcnn_R_101_C4_3x 138204752 298dad 41.1 - -
COCO-Detection faster_rcnn_R_101_DC5_3x 138204841 3e0943 40.6 - -
COCO-Detection faster_rcnn_R_101_FPN_3x 137851257 f6e8b1 42.0 - -
COCO-Detection faster_rcnn_X_101_32x8d_FPN_3x 139173657 68b088 43.0 - -
Misc mask_rcnn_R_50_FPN_3x_syncbn 169527823 3b3c51 41.9 37.8 -
Misc mask_rcnn_R_50_FPN_3x_gn 138602888 dc5d9e 42.6 38.6 -
Misc scratch_mask_rcnn_R_50_FPN_3x_gn 138602908 01ca85 39.9 36.6 -
Detectron1-Comparisons faster_rcnn_R_50_FPN_noaug_1x 137781054 7ab50c 36.9 - -
Detectron1-Comparisons mask_rcnn_R_50_FPN_noaug_1x 137781281 62ca52 37.8 34.9 -
Detectron1-Comparisons keypoint_rcnn_R_50_FPN_legacy_1x 137781195 cce136 53.1 - 64.2
"""
# model, file with the first digits of SHA-256, MiB; AP
_TORCHVISION = """
maskrcnn_resnet50_fpn maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth 169.84 37.9 34.6 -
maskrcnn_resnet50_fpn_v2 maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth 177.219 47.4 41.8 -
keypointrcnn_resnet50_fpn keypointrcnn_resnet50_fpn_coco-fc266e95.pth 226.054 54.6 - 65.0
keypointrcnn_resnet50_fpn_legacy keypointrcnn_resnet50_fpn_coco-9f466800.pth 226.054 50.6 - 61.1
fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_coco-258fb6c6.pth 159.743 37.0 - -
fasterrcnn_resnet50_fpn_v2 fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth 167.104 46.7 - -
"""
# ImageNet's networks, to start a training from: the same, with an upper bound of MiB
_BACKBONES = """\
resnet18 resnet18-f37072fd.pth 50 - - -
resnet34 resnet34-b627a593.pth 90 - - -
resnet50 resnet50-0676ba61.pth 110 - - -
resnet50_v2 resnet50-11ad3fa6.pth 110 - - -
resnet101 resnet101-63fe2227.pth 190 - - -
resnet101_v2 resnet101-cd907fc2.pth 190 - - -
resnext101_32x8d resnext101_32x8d-8ba56ff5.pth 370 - - -
resnext101_64x4d resnext101_64x4d-173b62eb.pth 350 - - -
"""


@cache
def releases() -> dict[str, Release]:
    """Every release by name."""
    tables = ((_torchvision, _TORCHVISION + _BACKBONES), (_detectron2, _DETECTRON2), (_detectron, _DETECTRON))
    rows = [release(*line.split()) for release, table in tables for line in table.strip().splitlines()]
    return {row.name: row for row in rows}


def _torchvision(model: str, file: str, mebibytes: str, *metrics: str) -> Release:
    digest = "sha256:" + file.removesuffix(".pth").rpartition("-")[2]
    size = int((float(mebibytes) + 0.01) * _MIB)
    return _release(f"torchvision:{model}", f"{_TORCH}/{file}", digest, size, _UNSTATED, metrics)


def _detectron2(folder: str, model: str, number: str, digest: str, *metrics: str) -> Release:
    config = model.replace("_legacy", "")
    address = f"{_META}/detectron2/{folder}/{config}/{number}/model_final_{digest}.pkl"
    return _release(f"detectron2:{model}", address, f"md5:{digest}", _LIMIT, _CC_BY_SA, metrics)


def _detectron(model: str, number: str, stamp: str, *metrics: str) -> Release:
    kind = "keypoints_" if "keypoint" in model else ""
    data = f"{kind}coco_2014_train%3A{kind}coco_2014_valminusminival"
    run = f"{number}/12_2017_baselines/{model}.yaml.{stamp}"
    address = f"{_META}/detectron/{run}/output/train/{data}/generalized_rcnn/model_final.pkl"
    return _release(f"detectron:{model}", address, "md5sum", _LIMIT, _CC_BY_SA, metrics)


def _release(name: str, address: str, digest: str, size: int, licence: str, metrics: tuple[str, ...]) -> Release:
    box, mask, keypoint = (None if value == "-" else float(value) for value in metrics)
    return Release(name, address, digest, size, licence, box, mask, keypoint, _SETTINGS.get(name, ()))
