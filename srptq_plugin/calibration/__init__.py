"""From a recipe, a network and images to the numbers of every site."""
