"""``python -m byzjax`` is the console script."""

from byzjax.cli import main

if __name__ == "__main__":
    main()
