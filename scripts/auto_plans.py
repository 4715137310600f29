"""Enter plans that ``foveate tune`` wrote into the table behind the plan "auto".

Usage: python scripts/auto_plans.py plan.yaml ...
"""

from __future__ import annotations

import sys
from pathlib import Path

from foveate.families import entered

if __name__ == "__main__":
    for name in sys.argv[1:]:
        entered(Path(name))
        print(f"entered {name}")
