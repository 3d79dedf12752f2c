"""The benchmarks: event loops side by side, each row on every loop in turn. docs/performance.md says how to read them.

What is measured lives in `rows`, one file a theme; what asyncio offers is all that a row may use.
"""
