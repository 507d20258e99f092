"""Where the bits go: what each part of a network costs the image, and where more bits would help."""
