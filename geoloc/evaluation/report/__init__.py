"""What an evaluation says: figures, tables, plots, pictures and the page."""
