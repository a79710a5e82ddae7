"""``python -m byzjax`` is the console script."""

from byzjax.cli.app import main

if __name__ == "__main__":
    main()
