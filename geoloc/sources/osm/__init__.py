"""Map data of OpenStreetMap: extracts to ways and areas, to the 25 classes, to points and map tiles."""
