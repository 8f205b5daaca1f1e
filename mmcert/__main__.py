"""``python -m mmcert``: the command ``mmcert``."""

import sys

from mmcert.commands.main import main

if __name__ == '__main__':
    sys.exit(main())
