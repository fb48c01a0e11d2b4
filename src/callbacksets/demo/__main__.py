import argparse

from callbacksets import demo
from callbacksets.demo import kill


def main() -> None:
    parser = argparse.ArgumentParser("python -m callbacksets.demo", description="Train on handwritten digits.")
    parser.add_argument("--kill", type=int, metavar="N", help="kill the training process N times and start it again")
    times = parser.parse_args().kill
    if times is None:
        demo.main()
    elif times < 1:
        parser.error(f"Expected --kill to be a whole number of at least 1 but got {times}.")
    else:
        kill.main(times)


if __name__ == "__main__":
    main()
