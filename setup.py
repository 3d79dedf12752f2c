"""Only what pyproject.toml has no words for: the CFFI module, and the tag of its wheel."""

import platform

from setuptools import setup

# The module keeps to CPython's stable ABI, so one wheel serves 3.11 and every later version. PyPy has none.
OPTIONS = {"bdist_wheel": {"py_limited_api": "cp311"}} if platform.python_implementation() == "CPython" else {}

setup(cffi_modules=["build_ffi.py:ffibuilder"], options=OPTIONS)
