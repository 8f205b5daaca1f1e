"""Runs ``mmcert plan``, where its code is."""

import sys

from mmcert.commands.plan import main

if __name__ == '__main__':
    sys.exit(main())
