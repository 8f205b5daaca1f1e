"""Runs ``mmcert attack``, where its code is."""

import sys

from mmcert.commands.attack import main

if __name__ == '__main__':
    sys.exit(main())
