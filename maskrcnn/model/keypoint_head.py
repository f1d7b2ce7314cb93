"""The keypoint branch: pooled features to one Q x Q map of logits per keypoint (section 5; Figure 4's FCN, wider)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..config import KeypointHeadConfig
from .layers import conv_stack, init_msra


class KeypointHead(nn.Module):
    """3x3 convolutions with ReLU, a 4x4 deconvolution that doubles the side, and bilinear doubling: Q = 4 S.

    `config.upsample`, the last step: "interpolate" repeats the border; "deconv" adds zeros around it, as Detectron's
    fixed deconvolution does, which is the same with three quarters of the first and last row and column.
    """

    def __init__(self, in_channels: int, config: KeypointHeadConfig) -> None:
        super().__init__()
        self.convs, in_channels = conv_stack(in_channels, config.channels, config.convs, config.norm)
        self.deconv = nn.ConvTranspose2d(in_channels, config.num_keypoints, 4, 2, 1)
        self.border = 0.75 if config.upsample == "deconv" else 1.0
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                init_msra(module)

    def forward(self, pooled: Float[Tensor, "B F C S S"]) -> Float[Tensor, "B F J Q Q"]:
        """Logits over the positions of each keypoint, float32."""
        x = self.deconv(self.convs(pooled.flatten(0, 1))).float()
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        if self.border != 1.0:
            edge = torch.ones(x.shape[-1], device=x.device)
            edge[0] = edge[-1] = self.border
            x = x * edge[:, None] * edge
        return x.unflatten(0, pooled.shape[:2])
