"""The procedure of Lehmann and Romano: fewer than k rejections are wrong."""

from mmcert.certify.procedures.base import Family, Procedure, Rejections, register


@register
class KFWER(Procedure):
    """Lehmann and Romano's step-down procedure, which bounds the k-FWER.

    With the p-values sorted, rejects ``p_(i)`` while it is at most ``k alpha / K`` for i <= k, and
    ``k alpha / (K + k - i)`` for i > k, and stops at the first failure (Lehmann and Romano,
    "Generalizations of the familywise error rate", Annals of Statistics 2005, theorem 2.2). With
    probability at least 1 - alpha, fewer than k rejections are wrong. k = 1 is Holm's procedure.
    """

    name = 'kfwer'
    promise = '*fewer than k* certificates are wrong: a count certificate, and labelled as one'
    source = 'Lehmann and Romano 2005'
    takes_k = True

    def next_critical_value(
        self, alpha: float, num_components: int, rejected: int, k: int = 1
    ) -> float:
        """``k alpha / (K + k - i)``, where i is the next rank, or k if that is larger."""
        return k * alpha / max(num_components + k - max(rejected + 1, k), 1)

    def run(self, family: Family) -> Rejections:
        """See ``Procedure.run``."""
        return family.step_down(family.k)
