"""The command line: one thin file per verb, which parses, calls the library and reports.

Nothing here imports torch, SciPy, scikit-learn or Matplotlib before a verb runs, so that ``--help``
answers at once.
"""
