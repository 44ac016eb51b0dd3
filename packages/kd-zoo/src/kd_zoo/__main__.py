"""``python -m kd_zoo``."""

from kd_zoo.cli import main

if __name__ == "__main__":
    main(prog_name="kd-zoo")
