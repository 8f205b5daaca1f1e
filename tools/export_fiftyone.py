"""Runs ``mmcert export_fiftyone``, where its code is."""

import sys

from mmcert.commands.export_fiftyone import main

if __name__ == '__main__':
    sys.exit(main())
