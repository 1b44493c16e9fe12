"""Convolutions as oneDNN wants them on a CPU: weights laid out beforehand, and cut to 0..6 in the same pass.

PyTorch lays a convolution's weights out anew at each call, and cuts in a pass of its own. The operators here are those
that its compiler emits for CPUs; where a torch has none of them, convolutions stay as they are.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

ALIKE = 1e-3  # of what is between 0 and 6


class PackedConvolution(nn.Module):
    """What a padding and a convolution do, and relu6 where it is_cut."""

    def __init__(self, padding: nn.Module, convolution: nn.Conv2d, size: Sequence[int], *, is_cut: bool) -> None:
        """size: (B, C, H, W) of what comes out of the padding; others are taken as well. Raises RuntimeError and
        AttributeError where there is no such operator."""
        super().__init__()
        self._pad, self._is_cut = padding, is_cut
        self._weight, self._bias = convolution.weight.detach(), convolution.bias
        self._at = [*convolution.padding], [*convolution.stride], [*convolution.dilation], convolution.groups
        lay_out: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # its own stub says that it takes less
        self._laid_out = lay_out(self._weight.to_mkldnn(), *self._at, [*size])
        self._convolve = torch.ops.mkldnn._convolution_pointwise
        self._after = ("hardtanh", [0.0, 6.0], "") if is_cut else ("none", [], "")

    def forward(self, states: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        states = self._pad(states)
        if torch.onnx.is_in_onnx_export():
            padding, stride, dilation, groups = self._at
            convolved = conv2d(states, self._weight, self._bias, stride, padding, dilation, groups)
            return convolved.clamp(0.0, 6.0) if self._is_cut else convolved
        convolved = self._convolve(states, self._laid_out, self._bias, *self._at, *self._after)
        assert isinstance(convolved, Tensor)
        return convolved


def pack(network: Any, convolutions: Sequence[tuple[nn.Module, str, bool]], sample: Tensor) -> bool:
    """These convolutions of the network are packed, if that changes nothing here; False if they stay as they were.

    convolutions  of each its owner, its name there, and whether relu6 comes behind it, which is to be skipped then:
                  the owner's `_swish`
    sample        (1, 3, side, side), of which `network.extract_features` makes the same before and after
    """
    plain = [getattr(owner, name) for owner, name, _ in convolutions]
    sizes: dict[nn.Module, Sequence[int]] = {}
    seen = [one.register_forward_pre_hook(lambda own, told: sizes.update({own: told[0].shape})) for one in plain]
    swishes = {owner: owner._swish for owner, _, _ in convolutions}
    with torch.inference_mode():
        before = network.extract_features(sample)
        for hook in seen:
            hook.remove()
        try:
            for convolution, (owner, name, is_cut) in zip(plain, convolutions, strict=True):
                padded = convolution.static_padding(torch.empty(sizes[convolution])).shape
                setattr(owner, name, PackedConvolution(convolution.static_padding, convolution, padded, is_cut=is_cut))
            for owner in swishes:
                owner._swish = nn.Identity()
            if torch.allclose(network.extract_features(sample), before, atol=ALIKE):
                return True
        except (RuntimeError, AttributeError, NotImplementedError):
            pass
    for convolution, (owner, name, _) in zip(plain, convolutions, strict=True):
        setattr(owner, name, convolution)
    for owner, swish in swishes.items():
        owner._swish = swish
    return False
