from anystep.bench import main
from anystep.errors import run_main

if __name__ == "__main__":
    run_main(main)
