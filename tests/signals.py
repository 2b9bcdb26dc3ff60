"Ctrl-C, as a person presses it."

import signal
import subprocess


def interrupted(process):
    """Press Ctrl-C, and again if the process goes on; -> what it wrote to stderr.

    Python drops an interrupt that falls into a destructor, so one alone may do nothing.
    """
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=20)[1]
        except subprocess.TimeoutExpired:
            pass
    process.kill()
    return process.communicate()[1]
