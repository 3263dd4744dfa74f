"""Ways to run the student; chosen once, at construction, through ``registry``."""
