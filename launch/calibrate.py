import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # this checkout need not be installed

from trainer.commands.calibrate import main

if __name__ == "__main__":
    sys.exit(main())
