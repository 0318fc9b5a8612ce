"""From matches to a fix: geographic cluster, calibrated radius and confidence, heading, the `Localizer`."""
