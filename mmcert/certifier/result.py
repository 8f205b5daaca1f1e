"""What was certified of one input."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcert.certifier.document import build_document
from mmcert.certifier.plan import CertificationPlan
from mmcert.certify import Certificate, CertifySettings, Votes, joint_radii
from mmcert.certify.rounding import AtLeast, AtMost
from mmcert.certify.selection import settle_joint
from mmcert.certify.sequential import GROWTH
from mmcert.metrics.confusion import IGNORE_INDEX, ConfusionCounts
from mmcert.perturbations import InputThreshold
from mmcert.version import __version__
from mmcert.votes import VotesRecord
from mmcert.votes.confidence import confidence_maps
from mmcert.votes.recertify import Task, evaluate

ARITHMETIC = (
    'draws are rounded to a fixed grid before the base model sees them, and what the base model '
    'computes is part of the smoothed function; we assume ideal random numbers, and that '
    'transformations, computed in double precision, are exact'
)
"""What certificates say of arithmetic."""

EXACT_ARITHMETIC = (
    'nothing is random; we assume that what the base model makes of an image depends on that image '
    'alone; its arithmetic is part of it, and the image is transformed in double precision and '
    'rounded to its own type'
)
"""The same of exact certificates."""


@dataclass(frozen=True, eq=False, repr=False)
class CertifiedInput:
    """The votes of one input and what they certify, computed when it is asked for.

    Attributes:
        record (VotesRecord): The votes, with the label, the base prediction and its margin.
        plan (CertificationPlan): What was sampled and is tested.
        input_threshold (InputThreshold | None): The threshold that the attack set takes on this
            input, where the perturbation has one for each.
        identity (Mapping): What the certificate says of the base model, as JSON values.
    """

    record: VotesRecord
    plan: CertificationPlan
    input_threshold: InputThreshold | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line: the votes alone would fill a screen."""
        certified = self.certificate.certified
        return (
            f'<{type(self).__name__} {self.record.meta.get("name", "")!r}: '
            f'{certified.mean():.1%} of {certified.size} components certified>'
        )

    @property
    def votes(self) -> Votes:
        """The votes."""
        return self.record.votes

    @property
    def settings(self) -> CertifySettings | None:
        """The settings, with this input's own threshold; None if nothing was tested."""
        return self.plan.settings_for(self.input_threshold)

    @cached_property
    def certificate(self) -> Certificate:
        """Which components are certified; see there for the theorem."""
        return self.record.certify(self.settings, self.plan.hierarchy)

    @property
    def joint_selection(self) -> str:
        """The draws that the joint radii count: settled for all thresholds, not for this one."""
        settings = self.plan.test_settings
        return settle_joint(self.votes, settings.alpha, settings.selection)

    @cached_property
    def joint_radii(self) -> NDArray[np.float32]:
        """The certified radius of each component, all of them jointly valid.

        Raises:
            ValueError: If nothing was tested: an enumeration has no radius.
        """
        return joint_radii(
            self.votes,
            alpha=self.plan.test_settings.alpha,
            radius=self.plan.perturbation.radius,
            selection=self.joint_selection,
        )

    @cached_property
    def maps(self) -> dict[str, NDArray[Any]]:
        """The maps of the input, each in the shape of its label.

        ``pred`` is the smoothed model's majority class, ``cert`` the same with 254 where it
        abstains, and ``base`` the base model's prediction on the clean input (int64). Except for
        pooled tests, ``radius`` is the joint radius (float32). With a ground truth there is
        ``label``. With a hierarchy ``levels`` holds the certified level and then the group at each
        level, shape (1 + L, ...). Of an enumeration ``pred`` is the base model's prediction too,
        and there is no ``radius``.
        """
        record, certificate = self.record, self.certificate
        maps: dict[str, NDArray[Any]] = {
            'pred': np.asarray(self.votes.guess, dtype=np.int64),
            'cert': np.asarray(certificate.label_map(), dtype=np.int64),
            'base': np.asarray(record.base, dtype=np.int64),
        }
        if self.settings is not None and self.votes.table is None:
            maps['radius'] = self.joint_radii
        if certificate.level is not None:
            levels = np.stack([certificate.level, *certificate.groups])
            maps['levels'] = levels.astype(np.int64)
        maps = {name: record.spread(values) for name, values in maps.items()}
        if record.label is not None:
            maps['label'] = np.asarray(record.label)
        return maps

    @cached_property
    def confidence(self) -> dict[str, NDArray[Any]]:
        """Maps of how sure the smoothed model is, see ``mmcert.votes.confidence``.

        Their bounds and radii count the draws that ``joint_radii`` count.
        """
        if self.settings is None or self.votes.table is not None:
            return confidence_maps(self.record)
        return confidence_maps(
            self.record,
            alpha=self.plan.test_settings.alpha,
            selection=self.joint_selection,
            radius=self.plan.perturbation.radius,
        )

    def counts(self, ignore_index: int = IGNORE_INDEX) -> ConfusionCounts:
        """Counts certificates against the label, except where that is ``ignore_index``.

        Counts of several inputs add up; their ``rates()`` are certified accuracy, mIoU and so on,
        or estimates of them where an ``input_threshold`` is only an estimate.
        """
        task = Task(self.plan.sampling.num_classes, ignore_index, self.plan.hierarchy)
        return evaluate([self.record], [self.settings], task)[0]

    def to_dict(self) -> dict[str, Any]:
        """The certificate as a document: what is certified, of what, and how, as JSON values.

        See ``mmcert.certifier.document``; its ``entries`` are the same without groups.
        """
        return build_document(self._entries(), self.record, self.maps)

    def _entries(self) -> dict[str, Any]:
        plan, certificate, record = self.plan, self.certificate, self.record
        guarantee = plan.guarantee(self.input_threshold).to_dict()
        values = {**certificate.to_dict(), **self._test_to_dict(), **plan.input_to_dict()}
        exact = self.settings is None
        ours = {
            'may_be_wrong': (certificate.k - 1) * record.pixels_per_component,
            **({} if exact else {'seed': plan.sampling.seed}),
            'arithmetic': EXACT_ARITHMETIC if exact else ARITHMETIC,
            'precision': record.meta.get('precision', 'not recorded'),
            'input': record.meta['digest'],
            'model': {'versions': {'mmcert': __version__}, **self.identity},
            **({} if exact else {'asked': asdict(plan.test_settings)}),
            **({'cells': record.meta['cells']} if 'cells' in record.meta else {}),
        }
        if taken := guarantee.keys() & (values.keys() | ours.keys()):
            raise ValueError(
                f'the guarantee of {plan.perturbation!r} must not say '
                f'{", ".join(sorted(taken))}, which the certificate says: rename it in `_extra`'
            )
        values |= guarantee | ours
        if self.input_threshold is not None:
            threshold = self.input_threshold
            cells = record.meta.get('partition', {})
            values['attack_on_this_input'] = {'tau': threshold.tau, **threshold.details, **cells}
            if threshold.kind == 'estimate':
                values['kind'] = 'estimate'
                values['promise'] = 'none: the threshold was not proven to suffice'
                del values['confidence']
        return values

    def _test_to_dict(self) -> dict[str, Any]:
        """What only draws and tests have to say."""
        if self.settings is None:
            return {}
        return {
            **self._joint_radius_to_dict(self.settings),
            **self._hierarchy_to_dict(self.settings),
            **self._looks_to_dict(),
        }

    def _joint_radius_to_dict(self, settings: CertifySettings) -> dict[str, Any]:
        if self.votes.table is not None:
            return {}
        radii = self.joint_radii
        values = {
            'description': (
                'the radius map holds at all its pixels at once, by itself with probability '
                f'{AtMost(1 - settings.alpha):g}; to use both it and the certificate above, add '
                f'their error bounds: {AtLeast(2 * settings.alpha):g}'
            ),
            'selection': self.joint_selection,
            'median': float(np.median(radii)) if radii.size else 0.0,
            'max': float(radii.max(initial=0.0)),
        }
        return {'joint_radius': values}

    def _hierarchy_to_dict(self, settings: CertifySettings) -> dict[str, Any]:
        hierarchy = self.plan.hierarchy
        if hierarchy is None:
            return {}
        tau, radius = settings.tau, self.plan.perturbation.radius
        levels = [
            {
                name: {
                    'classes': members,
                    'radius': radius(tau),
                    'argmax_radius': radius(tau, len(members) / (len(members) + 1)),
                }
                for name, members in hierarchy.members(level).items()
            }
            for level in range(1, hierarchy.num_levels + 1)
        ]
        description = (
            'radius keeps the class of the smoothed model within a group, where classes are merged '
            'before they are counted; argmax_radius keeps the most frequent single class within it'
        )
        return {'hierarchy': {'description': description, 'levels': levels}}

    def _looks_to_dict(self) -> dict[str, Any]:
        if self.plan.stopping is None:
            return {}
        decision = self.plan.stopping.decide(self.votes, self.certificate)
        return {
            'stopped': decision.reason,
            'next_look_would_certify': {
                'kind': 'estimate',
                'share_of_components': decision.gain,
                'draws': self.votes.n * GROWTH,
            },
        }
