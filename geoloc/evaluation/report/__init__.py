"""The result of an evaluation: recall tables, errors in metres, plots, pictures and the HTML report."""
