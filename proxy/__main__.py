"""``python -m proxy`` is the command ``statecar``."""

from proxy.cli import main

if __name__ == "__main__":
    main()
