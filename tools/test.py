"""Runs ``mmcert test``, where its code is."""

import sys

from mmcert.commands.test import main

if __name__ == '__main__':
    sys.exit(main())
