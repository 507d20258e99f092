"""How well a network draws: images in, how networks run on them, figures out."""
