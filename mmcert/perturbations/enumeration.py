"""Finite attack sets, tried parameter by parameter: certificates of the base model itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from mmcert.certify.checks import check_tau
from mmcert.perturbations.base import READ_AT, Guarantee, Perturbation, register
from mmcert.perturbations.images import check_image
from mmcert.surrogates import build_attack_set
from mmcert.transformations import Geometric, Transformation, build
from mmcert.transformations.operators import read_agreed

FINITE = (
    'Enumeration takes a transformation and values, a finite list of its parameters, {}: a range '
    'or a box has infinitely many of them, which cannot all be tried. TransformationCells '
    'and SurrogateTransform certify such sets'
)


@register
class Enumeration(Perturbation):
    """Every parameter of a finite set: certificates of the base model, without draws.

    Nothing is smoothed here. The theorem: on T_xi x the base model gives a certified component the
    class that it gives it on the clean image x, for every xi of the set. The base model was run at
    each of them, so this holds without a threshold, an error probability or a test: its kind is
    'exact'. It says nothing of any parameter outside the set, not even of one that lies between two
    of its members.

    Where the transformation moves the labels, a component is the content at a position v of the
    clean image: its class on T_xi x is read at the pixel nearest to A_xi v, and where two are
    equally near both must show it. Content that leaves the frame at some xi is never certified.

    T_xi x is computed in double precision, one parameter at a time, and rounded to the type of the
    image, as for the attacks of the other certificates. The base model must be deterministic: what
    it makes of an image depends on that image alone.

    As a source of random images (``draw``, for training) each parameter has the same probability.

    Args:
        transformation (Transformation | Mapping | str): The attack, its name, or its config, such
            as dict(type='rotation', padding='reflection').
        values (Sequence): The set: N numbers, or N lists of P numbers where the transformation
            takes P > 1.
        **others: Nothing else is legal. What describes a range or a box is refused.

    Raises:
        ValueError: If the set is empty or not finite, or a parameter out of range.

    Example:
        >>> blur = Enumeration('defocus_blur', values=[1, 2, 3])
        >>> blur.guarantee().attack_set
        'defocus_blur with radius (px) in {1, 2, 3}'
    """

    moves_labels = False  # Until a transformation says otherwise.
    enumerated: torch.Tensor
    distribution = 'none: each parameter of the set is tried once'
    stage = (
        'the attack acts on the image in [0, 1] units as it reaches the base model; input scaling, '
        'normalisation and padding follow'
    )
    rounding = (
        'the attacked image is computed in double precision and rounded to the type of the image, '
        'not to 8 bits; it is clipped only where the operator says so'
    )

    def __init__(
        self,
        transformation: Transformation | Mapping[str, Any] | str,
        values: torch.Tensor | NDArray[Any] | Sequence[Any] = (),
        **others: Any,
    ) -> None:
        if others:
            raise ValueError(FINITE.format(f'and no {", ".join(others)}'))
        if isinstance(values, Mapping):
            raise ValueError(FINITE.format(f'got values={dict(values)}'))
        found = transformation if isinstance(transformation, Transformation) else (
            build(transformation)
        )  # fmt: skip
        if type(build(found.spec())) is not type(found):
            raise ValueError(
                f'{type(found).__name__} has the spec of {type(build(found.spec())).__name__}: its '
                'votes would be taken for those of that class'
            )
        attack = build_attack_set({'values': values}, found)
        self.transformation, self.values = found, attack.spec()['values']
        self.moves_labels = found.moves_labels
        self.enumerated = attack.values
        self.formula = attack.describe(found)

    def check(self, inputs: torch.Tensor) -> None:
        """Refuses what is evidently no image (C, H, W) in [0, 1] units, attacked or not."""
        check_image(inputs)

    def draw(self, inputs: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Draws members of the set, each with the same probability; shape (B, P), float64."""
        numbers = [
            torch.randint(len(self.enumerated), (), generator=generator, device=generator.device)
            for generator in generators
        ]
        return self.enumerated[torch.stack(numbers).cpu()].to(inputs.device)

    def apply(self, inputs: torch.Tensor, parameters: torch.Tensor) -> list[torch.Tensor]:
        """Transforms the image by each parameter by itself, so that no batch changes a bit."""
        image = inputs[None].double()
        transform = self.transformation.transform
        return [transform(image, row[None])[0].to(inputs.dtype) for row in parameters]

    def map_labels(self, labels: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Labels at the pixels nearest to where the content has moved; see ``Perturbation``."""
        if not isinstance(self.transformation, Geometric):
            return labels
        return self.transformation.read_content(labels.to(torch.int32), parameters, -1)

    def labels_for_hits(self, labels: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """The same; -1 where two pixels are equally near, up to rounding, and differ."""
        if not isinstance(self.transformation, Geometric):
            return labels
        moved = self.transformation.moved(parameters, labels.shape[-2], labels.shape[-1])
        cyclic = self.transformation.padding == 'cyclic'
        return read_agreed(labels.to(torch.int32), moved, 0.0, False, -1, cyclic)

    def radius(self, tau: float, target: float = 0.5) -> float:
        """0: no threshold buys anything beside the set itself."""
        check_tau(tau)
        check_tau(target)
        return 0.0

    def guarantee(self, tau: float | None = None) -> Guarantee:
        """What a certificate says; there is no threshold that it could depend on."""
        arguments = self.spec()
        read = f', {READ_AT}' * self.moves_labels
        return Guarantee(
            perturbation=arguments.pop('type'),
            distribution=self.distribution,
            parameters=arguments,
            attack_set=self.formula,
            norm=None,
            radius=None,
            unit=None,
            stage=self.stage,
            rounding=self.rounding,
            moves_labels=self.moves_labels,
            claim=(
                f'no {self.formula} changes the class that the base model gives a certified '
                f'{self.component} on the clean image{read}'
            ),
            extra=self.transformation.to_dict(),
        )

    def spec(self) -> dict[str, Any]:
        """The name of the class and its arguments, as JSON values."""
        transformation, values = self.transformation.spec(), self.values
        return {'type': 'Enumeration', 'transformation': transformation, 'values': values}
