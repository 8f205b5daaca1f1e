"""Tables and curves of certified results; needs no OpenMMLab package."""

from mmcert.report.tables import (
    class_table,
    level_table,
    reference_table,
    region_table,
    result_table,
)

__all__ = ['class_table', 'level_table', 'reference_table', 'region_table', 'result_table']
