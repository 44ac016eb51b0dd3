"""``python -m kd_seg``."""

from kd_seg.cli import main

if __name__ == "__main__":
    main(prog_name="kd-seg")
