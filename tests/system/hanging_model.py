"""Runs the node with a model that never answers.

python hanging_model.py serve --config ...
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

from inference.process import ModelProcess
from node import supervisor
from node.cli import main
from tests.inference.misbehaving import HERE

original = supervisor.subprocess.Popen


def through_this_script(command, **options):
    return original([sys.executable, __file__, *command[3:]], **options)


if __name__ == "__main__":
    ModelProcess.__init__.__kwdefaults__["factory"] = f"{HERE}:load_hanging"
    if "--role" not in sys.argv:  # the supervisor starts its roles through this script too
        supervisor.subprocess.Popen = through_this_script
    main()
