"""Runs the node, and kills its worker at a step of the workflow: once before or after its work.

    python crash_at.py FLAG STEP before|after|always serve --config ...

"Before" kills the worker, which its supervisor starts again. "After" is when the step has done its
work but the engine has not yet noted it, and kills the whole node. "Always" is a study that takes
down its worker each time.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))  # the code under test is where the node is started
ARGUMENTS = sys.argv[1:4]
FLAG, STEP, MOMENT = Path(ARGUMENTS[0]), ARGUMENTS[1], ARGUMENTS[2]


def die_once():
    try:
        FLAG.touch(exist_ok=False)
    except FileExistsError:
        return
    if MOMENT == "after":
        os.kill(os.getppid(), signal.SIGKILL)  # the supervisor; the other roles die with it
    os.kill(os.getpid(), signal.SIGKILL)


def patch(module, name):
    work = getattr(module, name)

    def dying(*arguments):
        if MOMENT == "always":
            os.kill(os.getpid(), signal.SIGKILL)
        if MOMENT == "before":
            die_once()
        result = work(*arguments)
        die_once()
        return result

    setattr(module, name, dying)


if __name__ == "__main__":
    from node import delivery, steps, supervisor
    from node.cli import main

    if "--role" in sys.argv:
        places = {
            "select": (steps, "select"),
            "assemble": (steps, "assemble_first"),
            "assess": (steps, "assess"),
            "write": (steps, "write"),
            "check": (steps, "check"),
            "deliver": (delivery, "attempt"),
            "settle": (delivery, "settle"),
        }
        patch(*places[STEP])
    else:  # the supervisor starts its roles through this script too
        original = supervisor.subprocess.Popen

        def through_this_script(command, **options):
            return original([sys.executable, __file__, *ARGUMENTS, *command[3:]], **options)

        supervisor.subprocess.Popen = through_this_script
    sys.argv = ["overread", *sys.argv[4:]]
    main()
