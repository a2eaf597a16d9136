"""The watchdog reports when nothing finishes, says what is slow, and is silent otherwise."""

import time

from absl import logging

from vlt.runtime.watchdog import Watchdog


def test_it_names_the_slow_part_and_shows_stacks(caplog, capfd):
    logging.get_absl_logger().propagate = True
    watchdog = Watchdog(0.2)
    watchdog.part("step")
    watchdog.part("input")
    time.sleep(0.5)
    watchdog.close()
    lines = [record.getMessage() for record in caplog.records]
    assert lines and all("no step has ended for 0 s: input has been" in line for line in lines)
    assert "test_watchdog.py" in capfd.readouterr().err


def test_it_is_silent_while_steps_end(caplog):
    logging.get_absl_logger().propagate = True
    for limit in (0.3, 0.0):
        watchdog = Watchdog(limit)
        for _ in range(8):
            watchdog.part("step")
            time.sleep(0.05)
            watchdog.step_ended()
        watchdog.close()
    assert not caplog.records
