"""torchreid-style face of ``embae train``: python tools/train.py --config-file … --root …"""

import sys

from embae_plugin.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
