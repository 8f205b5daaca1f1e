"""Holm's procedure, which SegCertify uses."""

from mmcert.certify.procedures.base import Family, Procedure, Rejections, register


@register
class Holm(Procedure):
    """Holm's step-down procedure.

    With the p-values sorted, rejects ``p_(i)`` while ``p_(i) <= alpha / (K - i + 1)``, and stops at
    the first failure (Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
    Journal of Statistics 1979). It rejects all that Bonferroni's procedure rejects.
    """

    name = 'holm'
    promise = 'no certificate is wrong; never fewer certificates than `bonferroni`'
    source = 'Holm 1979; what SegCertify uses'

    def run(self, family: Family) -> Rejections:
        """See ``Procedure.run``."""
        return family.step_down(1)
