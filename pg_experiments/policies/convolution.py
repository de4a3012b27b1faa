"""Convolutional networks for images, whose weights carry the run in front."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.exact import crop, pad_to_lane, prepared_product, product, product_gradients
from pg_experiments.packing import NUMBERS_AT_ONCE
from pg_experiments.policies.first_weights import orthogonal
from pg_experiments.policies.networks import ACTIVATIONS, MLP, Layers, Network, Parameters, apply, layers_of
from pg_experiments.policies.standalone import ConvolutionalNetwork

ImageShape = tuple[int, int, int]  # channels, height, width


class Convolution(NamedTuple):
    """One convolution without padding: images `[channels, height, width]` become smaller ones.

    As a product: every patch of the image, `kernel² · channels` numbers, times a matrix.
    """

    image: ImageShape
    outputs: int
    kernel: int
    stride: int

    @property
    def output_image(self) -> ImageShape:
        """Its channels, height and width afterwards: (size - kernel) // stride + 1."""
        _, height, width = self.image
        return self.outputs, (height - self.kernel) // self.stride + 1, (width - self.kernel) // self.stride + 1

    @property
    def positions(self) -> int:
        """Of the kernel in an image."""
        return self.output_image[1] * self.output_image[2]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix: numbers in a patch, `[kernel, kernel, channels]`, and channels afterwards."""
        return self.image[0] * self.kernel**2, self.outputs

    def patches(self, images: Float[Tensor, "runs samples height width channels"]) -> Float[Tensor, "runs rows patch"]:
        """A row for every position in every sample; every size a multiple of 4."""
        windows = images.contiguous().unfold(2, self.kernel, self.stride).unfold(3, self.kernel, self.stride)
        rows = windows.permute(0, 1, 2, 3, 5, 6, 4).flatten(4).flatten(1, 3)
        return pad_to_lane(pad_to_lane(rows, -1), -2).contiguous()  # of one sample it may be a view of another layout

    def images_of(self, patches: Float[Tensor, "runs rows patch"], samples: int) -> Tensor:
        """The adjoint of `patches`: every number of a patch is added to its pixel, kernel place by kernel place."""
        rows = crop(crop(patches, -1, self.shape[0]), -2, samples * self.positions)
        channels, *size = self.image
        _, height, width = self.output_image
        parts = rows.unflatten(2, (self.kernel, self.kernel, channels)).unflatten(1, (samples, height, width))
        images = patches.new_zeros(len(patches), samples, *size, channels)
        for down in range(self.kernel):
            for right in range(self.kernel):
                places = images[:, :, down :: self.stride, right :: self.stride][:, :, :height, :width]
                places += parts[..., down, right, :]
        return images

    def output_images(self, rows: Float[Tensor, "runs rows out"], samples: int) -> Tensor:
        """The product's rows as images `[runs, samples, height, width, channels]`: a view."""
        rows = crop(crop(rows, -1, self.outputs), -2, samples * self.positions)
        return rows.unflatten(1, (samples, *self.output_image[1:]))

    def output_rows(self, images: Float[Tensor, "runs samples height width channels"]) -> Tensor:
        """Undo `output_images`; every size a multiple of 4."""
        return pad_to_lane(pad_to_lane(images.flatten(1, 3), -1), -2)


@dataclass(frozen=True)
class Convolutions:
    """The convolutions at the beginning of a network.

    Attributes:
        image_shape: channels, height and width of an observation.
        channels: after each convolution.
        kernel_sizes: height and width of each convolution's window.
        strides: of each, in pixels.
    """

    image_shape: ImageShape
    channels: Sequence[int]
    kernel_sizes: Sequence[int]
    strides: Sequence[int]

    def __iter__(self) -> Iterator[Convolution]:
        image = self.image_shape
        for outputs, kernel, stride in zip(self.channels, self.kernel_sizes, self.strides, strict=True):
            convolution = Convolution(image, outputs, kernel, stride)
            yield convolution
            image = convolution.output_image


@dataclass(frozen=True)
class CNN:
    """Convolutions, each followed by the activation, and an `MLP` over all pixels of the last one's images.

    With 8, 4 and 3 pixels wide kernels, strides of 4, 2 and 1, 32, 64 and 64 channels and one hidden layer of 512 units
    it is the network of Mnih et al. (2015), Human-level control through deep reinforcement learning.

    Attributes:
        convolutions: of the image.
        hidden_sizes, output_size, activation, output_gain: of the MLP.
    """

    convolutions: Convolutions
    hidden_sizes: Sequence[int]
    output_size: int
    activation: str
    output_gain: float

    @cached_property
    def parts(self) -> list[Convolution]:
        """The convolutions, one by one."""
        return list(self.convolutions)

    @cached_property
    def head(self) -> MLP:
        """What follows the convolutions."""
        channels, height, width = self.parts[-1].output_image
        size = channels * height * width
        return MLP(size, self.hidden_sizes, self.output_size, self.activation, self.output_gain)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Of every convolution's matrix, and of the head's weights."""
        return [part.shape for part in self.parts] + self.head.shapes

    @property
    def names(self) -> list[str]:
        """`convolution0.weight`, `[runs, kernel² · channels, channels after it]`, and so on; then the head's."""
        own = [f"convolution{place}.{part}" for place in range(len(self.parts)) for part in ("weight", "bias")]
        return own + self.head.names

    @property
    def numbers_per_sample(self) -> int:
        """Numbers in all patches of the convolution that has most."""
        return max(part.positions * part.shape[0] for part in self.parts)

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> Parameters:
        """Draw orthogonal weights with gain √2, as the MLP's are, from each run's own generator; biases are zero."""
        parameters = {}
        for place, part in enumerate(self.parts):
            parameters[f"convolution{place}.weight"] = orthogonal(generators, part.shape, 2**0.5, dtype)
            parameters[f"convolution{place}.bias"] = torch.zeros(len(generators), part.outputs, dtype=dtype)
        return parameters | self.head.init(generators, dtype)

    def actor(self, parameters: Parameters) -> Callable[[Tensor], Tensor]:
        """The network with these parameters, for many calls without gradient: what does not change is done once."""
        layers = layers_of(self, parameters)[: len(self.parts)]
        head, function = self.head.actor(parameters), ACTIVATIONS[self.activation].function

        def act(x: Float[Tensor, "runs samples in"]) -> Float[Tensor, "runs samples out"]:
            runs, samples = x.shape[:2]
            at_once = max(1, NUMBERS_AT_ONCE // (samples * self.numbers_per_sample))
            seen = []
            for rows in (slice(first, first + at_once) for first in range(0, runs, at_once)):
                images = _channels_last(x[rows], self.convolutions.image_shape)
                for part, (weight, bias) in zip(self.parts, layers, strict=True):
                    output = prepared_product(weight[rows], bias[rows])(part.patches(images))
                    images = part.output_images(function(output), samples)
                seen.append(images.flatten(2).contiguous())
            return head(torch.cat(seen))

        return act

    def __call__(
        self, parameters: Parameters, x: Float[Tensor, "runs samples in"]
    ) -> Float[Tensor, "runs samples out"]:
        """Apply run k's network to row k of `x`, images as vectors `[channels, height, width]`."""
        return apply(self, parameters, x)

    def module(self, parameters: Parameters) -> torch.nn.Module:
        """The network of one run, whose parameters are `[1, ...]`, as a plain module of torch: see `standalone.py`."""
        layers = []
        for place, part in enumerate(self.parts):
            weight, bias = (parameters[f"convolution{place}.{name}"][0] for name in ("weight", "bias"))
            layers.append((weight.unflatten(0, (part.kernel, part.kernel, part.image[0])), bias, part.stride))
        return ConvolutionalNetwork(
            self.convolutions.image_shape, layers, self.activation, self.head.module(parameters)
        )

    def forward(self, layers: Layers, x: Float[Tensor, "runs samples in"]) -> list[Tensor]:
        """Patches and output of every convolution, after its activation; then those of the MLP."""
        values, samples = [], x.shape[1]
        images = _channels_last(x, self.convolutions.image_shape)
        for part, (weight, bias) in zip(self.parts, layers, strict=False):
            patches = part.patches(images)
            output = ACTIVATIONS[self.activation].function(product(patches, weight, bias))
            values += [patches, output]
            images = part.output_images(output, samples)
        return values + self.head.forward(layers[len(self.parts) :], images.flatten(2).contiguous())

    def tangent(
        self, layers: Layers, values: Sequence[Tensor], change: Layers, samples: int
    ) -> Float[Tensor, "runs samples out"]:
        """How the output changes with the weights and biases, to first order: the Jacobian times their change.

        Args:
            layers, values: given to and by `forward`.
            change: of every layer.
            samples: how many there are, without what fills up.
        """
        count, images = len(self.parts), torch.empty(0)
        for place, part in enumerate(self.parts):
            (weight, _), (weight_change, bias_change) = layers[place], change[place]
            before = product(values[2 * place], weight_change, bias_change)
            if place:
                before = before + product(part.patches(images), weight, torch.zeros_like(bias_change))
            of_output = ACTIVATIONS[self.activation].gradient(before, values[2 * place + 1])
            images = part.output_images(of_output, samples)
        of_x = pad_to_lane(pad_to_lane(images.flatten(2), -1), -2)
        return self.head.tangent(layers[count:], values[2 * count :], change[count:], samples, of_x)

    def backward(
        self, layers: Layers, values: Sequence[Tensor], gradient: Float[Tensor, "runs samples out"], for_x: bool = False
    ) -> tuple[Tensor | None, Layers]:
        """Gradients for the input (where asked for), and for every weight and bias.

        Args:
            layers, values: given to and by `forward`.
            gradient: of the output.
        """
        count, samples = len(self.parts), gradient.shape[1]
        of_x, of_layers = self.head.backward(layers[count:], values[2 * count :], gradient, for_x=True)
        assert of_x is not None
        channels, *size = self.parts[-1].output_image
        images = crop(crop(of_x, -2, samples), -1, self.head.input_size).unflatten(-1, (*size, channels))
        for place in reversed(range(count)):
            part, patches, output = self.parts[place], values[2 * place], values[2 * place + 1]
            of_output = ACTIVATIONS[self.activation].gradient(part.output_rows(images), output)
            of_patches, weight, bias = product_gradients(of_output, patches, layers[place][0], for_x=place > 0 or for_x)
            of_layers.insert(0, (weight, bias))
            if of_patches is None:
                return None, of_layers
            images = part.images_of(of_patches, samples)
        return images.permute(0, 1, 4, 2, 3).flatten(2), of_layers


def _channels_last(x: Float[Tensor, "runs samples in"], image: ImageShape) -> Tensor:
    """Vectors `[channels, height, width]` as images of which a patch's rows lie side by side in memory."""
    return x.unflatten(-1, image).permute(0, 1, 3, 4, 2)


def network_of(
    convolutions: Convolutions | None,
    input_size: int,
    hidden_sizes: Sequence[int],
    output_size: int,
    activation: str,
    output_gain: float,
) -> Network:
    """An `MLP`, or a `CNN` where there are convolutions."""
    if convolutions is None:
        return MLP(input_size, hidden_sizes, output_size, activation, output_gain)
    return CNN(convolutions, hidden_sizes, output_size, activation, output_gain)
