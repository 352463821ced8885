"""`python -m mvig_nas`, which `torchrun -m mvig_nas` needs."""

from mvig_nas.cli import main

if __name__ == "__main__":
    main()
