"""Runs ``mmcert ensemble``, where its code is."""

import sys

from mmcert.commands.ensemble import main

if __name__ == '__main__':
    sys.exit(main())
