"""The box branch: pooled features to K + 1 class logits, background last, and class-specific deltas (Figure 4)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..config import BoxHeadConfig
from .layers import conv_stack, init_msra, init_normal, init_xavier


class BoxHead(nn.Module):
    """3x3 convolutions of 256 channels (4conv1fc: four), fully connected layers (2fc: two), then the two predictors.

    For `res5` neither: its trunk is in the pool, and the features are averaged over their positions.
    """

    def __init__(self, in_channels: int, classes: int, config: BoxHeadConfig) -> None:
        super().__init__()
        self.pool_size = config.pool_size
        convs, layers = {"2fc": (0, 2), "4conv1fc": (4, 1), "res5": (0, 0)}[config.kind]
        self.convs, in_channels = conv_stack(in_channels, 256, convs, config.norm)
        width = in_channels * self.pool_size**2 if layers else in_channels
        self.fc = nn.ModuleList()
        for _ in range(layers):
            self.fc.append(nn.Linear(width, config.channels))
            width = config.channels
        self.channels_last = False  # how the first layer's weights count the features
        self.class_logits = nn.Linear(width, classes + 1)
        self.box_deltas = nn.Linear(width, 4 if config.class_agnostic else 4 * classes)
        for module in self.convs.modules():
            if isinstance(module, nn.Conv2d):
                init_msra(module)
        for layer in self.fc:
            init_xavier(layer)
        init_normal(self.class_logits, 0.01)
        init_normal(self.box_deltas, 0.001)

    @torch.no_grad()
    def count_channels_last(self) -> None:
        """Reorders the first layer's weights to read features as they lie in memory, so that nothing is copied."""
        if self.fc and not self.channels_last:
            first = self.fc[0]
            assert isinstance(first, nn.Linear)
            by_channel = first.weight.unflatten(1, (-1, self.pool_size, self.pool_size))
            first.weight.copy_(by_channel.permute(0, 2, 3, 1).flatten(1))
            self.channels_last = True

    def forward(
        self, features: Float[Tensor, "B R C S S"]
    ) -> tuple[Float[Tensor, "B R K1"], Float[Tensor, "B R Kd 4"]]:
        """Class logits and deltas, float32; Kd = K, or 1 if they are class-agnostic."""
        x = self.convs(features.flatten(0, 1))
        if self.fc:
            x = (x.permute(0, 2, 3, 1) if self.channels_last else x).flatten(1)
        else:
            x = F.avg_pool2d(x, x.shape[2:]).flatten(1)  # x.mean(dim=(2, 3)) takes 20 times as long in bfloat16
        for layer in self.fc:
            x = F.relu(layer(x), inplace=True)
        logits = self.class_logits(x).float().unflatten(0, features.shape[:2])
        deltas = self.box_deltas(x).float().unflatten(0, features.shape[:2])
        return logits, torch.unflatten(deltas, -1, (-1, 4))
