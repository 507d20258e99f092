"""Accuracy control: the cheapest plan whose drop of PSNR, measured in the runtime, is within a limit."""
