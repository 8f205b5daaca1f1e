"""Runs ``mmcert report``, where its code is."""

import sys

from mmcert.commands.report import main

if __name__ == '__main__':
    sys.exit(main())
