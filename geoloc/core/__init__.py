"""What every room stands on: errors, storage, coordinates, pictures, tables, progress."""
