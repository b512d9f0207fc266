"""One module or folder per backend; `registry` finds them by URL scheme and imports them when they are used."""
