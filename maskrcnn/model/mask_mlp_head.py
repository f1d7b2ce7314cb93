"""The mask branch as fully connected layers: Table 2e, first two rows, which lose the layout that the FCN keeps."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .layers import init_xavier
from .mask_head import background_and_class


class MaskMLPHead(nn.Module):
    """Pooled features, flattened, through `layers` hidden layers to K maps of M x M, with M = 2 S as the FCN has it."""

    def __init__(
        self,
        in_channels: int,
        pool_size: int,
        classes: int,
        *,
        layers: int,
        channels: int,
        class_agnostic: bool,
        compete: bool = False,
    ) -> None:
        super().__init__()
        width = in_channels * pool_size * pool_size
        hidden: list[nn.Module] = []
        for _ in range(layers):
            hidden.append(nn.Linear(width, channels))
            width = channels
        self.fc = nn.ModuleList(hidden)
        self.maps, self.side = (1 if class_agnostic else classes) + compete, 2 * pool_size
        self.predictor = nn.Linear(width, self.maps * self.side * self.side)
        self.class_agnostic, self.compete = class_agnostic, compete
        for layer in (*self.fc, self.predictor):
            init_xavier(layer)

    def forward(
        self, pooled: Float[Tensor, "B F C S S"], labels: Int[Tensor, "B F"]
    ) -> Float[Tensor, "B F M M"] | Float[Tensor, "B F 2 M M"]:
        """As `MaskHead.forward`."""
        x = pooled.flatten(0, 1).flatten(1)
        for layer in self.fc:
            x = F.relu(layer(x), inplace=True)
        maps = self.predictor(x).view(-1, self.maps, self.side, self.side)
        rows = torch.zeros_like(labels) if self.class_agnostic else labels
        rows = rows.flatten().clamp(0, self.maps - 1 - self.compete)
        if self.compete:
            return background_and_class(maps, rows).unflatten(0, pooled.shape[:2])
        return maps[torch.arange(len(maps), device=maps.device), rows].float().unflatten(0, pooled.shape[:2])
