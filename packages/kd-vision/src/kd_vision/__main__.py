"""``python -m kd_vision``."""

from kd_vision.cli import main

if __name__ == "__main__":
    main(prog_name="kd-vision")
