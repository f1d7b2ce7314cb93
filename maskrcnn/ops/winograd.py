"""3 x 3 convolutions with fewer products: Winograd's F(2 x 2, 3 x 3), as in Lavin and Gray (arXiv 1509.09308).

A tile of 2 x 2 output pixels takes 16 products per channel instead of 36. Tiles and weights are transformed, multiplied
elementwise, which is 16 matrix products over the channels, and transformed back.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.profiler import record_function

from .dispatch import which

# Section 4.1: y = A' ((G g G') * (B' d B)) A, with g the 3 x 3 weights and d the 4 x 4 input pixels of a tile.
_B = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_A = ((1, 1, 1, 0), (0, 1, -1, -1))


def transform_weights(weight: Float[Tensor, "D C 3 3"], dtype: torch.dtype) -> Float[Tensor, "16 C D"]:
    """The weights that `winograd` takes, rounded to `dtype` once, at the end."""
    g = torch.tensor(_G, dtype=torch.float64)
    return torch.einsum("ia,dcab,jb->ijcd", g, weight.double(), g).flatten(0, 1).to(dtype).contiguous()


def winograd(
    x: Float[Tensor, "B C H W"],
    weights: Float[Tensor, "16 C D"],
    bias: Float[Tensor, " D"],
    add: Float[Tensor, "B D H W"] | None = None,
    *,
    relu: bool,
    impl: str | None = None,
) -> Float[Tensor, "B D H W"]:
    """convolution + bias + add, then ReLU if `relu`; stride 1, zero padding, channels last.

    `weights` come from `transform_weights` and have the type of `x`, float32 or bfloat16. The result equals the direct
    convolution up to rounding: the relative error (root mean square) is 1e-6 in float32 and 4e-3 in bfloat16, where
    transformed tiles are rounded too; the direct convolution's is 2e-3. For inference only: there is no gradient.
    """
    suited = impl or (None if x.dtype in (torch.float32, torch.bfloat16) else "reference")
    if which("winograd", x.device, suited) == "numba":
        from .kernels.winograd_numba import winograd_numba as run
    else:
        run = winograd_reference
    with record_function("maskrcnn::winograd"):  # so that a profile shows these convolutions separately
        return run(x, weights, bias, add, relu)


def winograd_reference(x: Tensor, weights: Tensor, bias: Tensor, add: Tensor | None, relu: bool) -> Tensor:
    """Defines `winograd`."""
    height, width = x.shape[2:]
    b, a = (x.new_tensor(matrix, dtype=torch.float32) for matrix in (_B, _A))
    tiles = F.pad(x.float(), (1, 1 + width % 2, 1, 1 + height % 2)).unfold(2, 4, 2).unfold(3, 4, 2)  # [B C h w 4 4]
    seen = torch.einsum("ik,bchwkl,jl->ijbhwc", b, tiles, b).flatten(0, 1)
    products = torch.bmm(seen.flatten(1, 3).to(x.dtype), weights).float().view(4, 4, *seen.shape[1:4], weights.shape[2])
    y = torch.einsum("ik,klbhwd,jl->bdhiwj", a, products, a).flatten(4, 5).flatten(2, 3)[:, :, :height, :width]
    y = y + bias.float()[:, None, None]
    if add is not None:
        y = y + add
    return (F.relu(y) if relu else y).to(x.dtype).contiguous(memory_format=torch.channels_last)
