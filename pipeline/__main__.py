"""python -m pipeline."""

from pipeline.cli import main
from pipeline.cluster.interrupts import quiet_imports

if __name__ == "__main__":
    quiet_imports()
    raise SystemExit(main())
