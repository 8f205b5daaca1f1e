"""Bonferroni's procedure."""

from mmcert.certify.procedures.base import Family, Procedure, Rejections, register


@register
class Bonferroni(Procedure):
    """Rejects every hypothesis with ``p <= alpha / K``.

    The probability that any rejection is wrong is at most alpha, by the union bound.
    """

    name = 'bonferroni'
    source = 'the union bound'
    steps_down = False

    def run(self, family: Family) -> Rejections:
        """See ``Procedure.run``."""
        critical = self.critical_value(family.alpha, family.hits.size)
        return family.reject_from(family.attains(critical))
