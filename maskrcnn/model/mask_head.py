"""The mask branch: pooled features to M x M logits, by an FCN (Figure 4) or by the MLPs of Table 2e."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..config import MaskHeadConfig
from .layers import conv_stack, init_msra, init_xavier


class MaskHead(nn.Module):
    """3x3 convolutions, a 2x2 deconvolution that doubles the side, ReLU after each, a 1x1 predictor: one map per class.

    Only one map of a RoI is ever read: the true class's in training, the predicted one's at test. `forward` computes
    that map alone, which has the value and the gradient of picking it from all K. If classes compete
    (softmax, Table 2b) all are needed, and background's is the first.
    """

    def __init__(self, in_channels: int, classes: int, config: MaskHeadConfig) -> None:
        super().__init__()
        convs = 0 if config.kind == "res5" else config.convs
        self.convs, in_channels = conv_stack(in_channels, config.channels, convs, config.norm)
        self.class_agnostic, self.compete = config.class_agnostic, config.loss == "softmax"
        self.deconv = nn.ConvTranspose2d(in_channels, config.channels, 2, 2)
        self.predictor = nn.Conv2d(config.channels, (1 if self.class_agnostic else classes) + self.compete, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                init_msra(module)
        # By fan-in: Detectron's MSRA is by fan-out, which is K, and makes logits of 20 for one class; Detectron2's
        # N(0, 0.001) starves the layers below of gradient for the first thousands of steps.
        init_xavier(self.predictor)

    def forward(
        self, pooled: Float[Tensor, "B F C S S"], labels: Int[Tensor, "B F"]
    ) -> Float[Tensor, "B F M M"] | Float[Tensor, "B F 2 M M"]:
        """Logits of the map of class `labels` (0..K-1) of each RoI, float32.

        If classes compete: log-probabilities of background and of that class.
        """
        x = self._upsampled(self.convs(pooled.flatten(0, 1)))  # [N S S 2 2 D]
        rows = torch.zeros_like(labels) if self.class_agnostic else labels
        rows = rows.flatten().clamp(0, self.predictor.out_channels - 1 - self.compete)
        weight, bias = self.predictor.weight[:, :, 0, 0], self.predictor.bias
        assert bias is not None
        if self.compete:
            logits = background_and_class(_arranged(F.linear(x, weight, bias)), rows)
        else:
            chosen = weight.to(x.dtype)[rows]  # [N D]
            logits = (x.flatten(1, 4) @ chosen[..., None]).float() + bias.float()[rows][:, None, None]
            logits = _arranged(logits.view(*x.shape[:5], 1)).squeeze(1)
        return logits.unflatten(0, pooled.shape[:2])

    def _upsampled(self, x: Float[Tensor, "N C S S"]) -> Float[Tensor, "N S S 2 2 D"]:
        """The deconvolution and its ReLU; of each pixel the four that come of it.

        At stride 2 output pixels do not overlap, so a matrix product computes them, and its backward pass is faster:
        the layer's own took 62 ms for 160 RoIs of 96 channels on two cores, of a step of 375.
        """
        weight, bias = self.deconv.weight, self.deconv.bias
        assert bias is not None
        four = F.linear(x.permute(0, 2, 3, 1), weight.permute(2, 3, 1, 0).flatten(0, 2), bias.repeat(4))
        return F.relu(four, inplace=True).unflatten(-1, (2, 2, -1))


class MaskMLPHead(nn.Module):
    """The mask branch of Table 2e's first two rows: fully connected layers, which lose the layout that the FCN keeps.

    Pooled features, flattened, through two or three hidden layers to K maps of M x M, with M = 2 S as in the FCN.
    """

    def __init__(self, in_channels: int, classes: int, config: MaskHeadConfig, *, channels: int) -> None:
        super().__init__()
        width = in_channels * config.pool_size**2
        self.fc = nn.ModuleList()
        for _ in range({"mlp2": 2, "mlp3": 3}[config.kind]):
            self.fc.append(nn.Linear(width, channels))
            width = channels
        self.class_agnostic, self.compete = config.class_agnostic, config.loss == "softmax"
        self.maps, self.side = (1 if self.class_agnostic else classes) + self.compete, 2 * config.pool_size
        self.predictor = nn.Linear(width, self.maps * self.side * self.side)
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


def _arranged(pixels: Float[Tensor, "N S S 2 2 O"]) -> Float[Tensor, "N O M M"]:
    """As a map, M = 2 S."""
    maps = pixels.permute(0, 5, 1, 3, 2, 4)
    return maps.flatten(4, 5).flatten(2, 3)


def background_and_class(logits: Float[Tensor, "N O M M"], rows: Int[Tensor, " N"]) -> Float[Tensor, "N 2 M M"]:
    """From logits of background and O - 1 classes that compete for each pixel: two log-probabilities, float32."""
    logs = logits.float().log_softmax(dim=1)
    index = (rows + 1)[:, None, None, None].expand(-1, 1, *logs.shape[2:])
    return torch.cat((logs[:, :1], logs.gather(1, index)), dim=1)
