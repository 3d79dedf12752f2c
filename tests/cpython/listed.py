"""The tests of CPython's suite that do not pass on ffloop, each with its reason. All others must."""

LISTED: dict[str, str] = {}
