"""Equipment that several tests share."""
