"""What the stage `compare` measures, counts and draws: kept measurements, tables, curves, pictures, the page."""
