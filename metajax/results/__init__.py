"""Results: typed records of runs, their statistics, tables, plots and comparisons."""
