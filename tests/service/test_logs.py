"""Log lines."""

import json
import logging
import sys

from service.logs import JsonFormatter


def line_of(message: str, *args: object, **attributes: object) -> dict[str, object]:
    record = logging.LogRecord("service.x", logging.INFO, "", 0, message, args, None)
    record.created, record.msecs = 1_700_000_000.25, 250.0
    vars(record).update(attributes)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line: dict[str, object] = json.loads(text)
    return line


def test_a_line_says_when_how_bad_where_and_what() -> None:
    assert line_of("%d of %d", 1, 2) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "logger": "service.x",
        "message": "1 of 2",
    }


def test_fields_become_members() -> None:
    line = line_of("request", fields={"status": 200, "route": "/score"})
    assert (line["status"], line["route"]) == (200, "/score")


def test_a_traceback_and_a_line_break_stay_on_one_line() -> None:
    try:
        int("x\ny")
    except ValueError:
        line = line_of("two\nlines", exc_info=sys.exc_info())
    assert line["message"] == "two\nlines"
    assert "ValueError" in str(line["exception"])
