"""What `--help` says above the options: what a command does, with examples."""

ABOUT = "Post-training quantization of super-resolution networks."
EPILOG = """\
a first run, on the network and the photographs that come with the package:
  srptq quantize
  srptq evaluate run --data Set5

exit codes:
  0  done
  1  a check failed: the runtime does not compute what was simulated
  2  your input is at fault; the message says what and where
  3  an internal error; please report it with what -v shows
"""
QUANTIZE = """\
Quantize a network and write a run folder: the target's files, the recipe in
full, a summary. Without --model the bundled EDSR x4, without --images the
photographs of scikit-image.

examples:
  srptq quantize --recipe onnxruntime-w8a8 --out run8
  srptq quantize --model edsr --weights edsr_x4.pth --images lr --out run
  srptq quantize --model mynet:build --model-args upscale=4 --weights net.pth
  srptq quantize --set activations.bits=6 calibration.patches=200
"""
COST = """\
Count what a network costs in float and quantized: multiplications, BitOPs,
bytes of the model, memory of the feature maps, and FQSR's and DAQ's figures.
Give a run folder, or a recipe and a network: no image is read.

examples:
  srptq cost run
  srptq cost edsr --weights edsr_x4.pth --recipe paper-w4a4
  srptq cost mynet:build --input-size 1x3x339x510
"""
ANALYZE = """\
Measure what each stage, each combination of stages, each block and each site
costs the image: quantized alone, and left float while the rest is quantized.
With --budget, measure every tensor at several numbers of bits, and write the
recipe that spends them best.

examples:
  srptq analyze run
  srptq analyze edsr --weights edsr_x4.pth --recipe paper-w4a4 --by stage
  srptq analyze --recipe paper-w4a4 --budget bops=0.3 --recipe-out mixed.yaml
"""
PLOT = """\
Draw what `srptq analyze` measured: heat maps of stages, blocks and sites, and
of a budget's answer PSNR against cost. With --site, how the values of a run's
tensor are spread, and where its bounds are on the way to integers.

examples:
  srptq plot run
  srptq plot budget.json --out pictures
  srptq plot run --site body.0/add
"""
TRAIN = """\
Train from a calibrated run, and write another run: weights, biases and bounds
learn together, and the state that validated best is kept. With --scale the
images are photographs, which it learns; without, they are low-resolution
images, whose teacher is the float network.

examples:
  srptq train openvino-w8a8 --run run --images lr
  srptq train openvino-w8a8 --run run --images photographs --scale 4
  srptq train openvino-w8a8 --run run --images lr --out trained --resume
"""
EVALUATE = """\
PSNR and SSIM on Y of a run: the float network, the simulation, the file in
its runtime, and bicubic.

examples:
  srptq evaluate run --data Set5
  srptq evaluate run --data Set5 --csv scores.csv
  srptq evaluate run --data photographs --tile 128 --overlap 32
"""
VERIFY = """\
Hold the simulation against the file in its real runtime, on crops of four
sizes: how far they differ, how many convolutions run in integers, how much
faster than float that is. Exit code 1 where they differ.

examples:
  srptq verify run
  srptq verify run --images lr
"""
LINT = """\
Check any ONNX file, from wherever it comes, against a target's rules: which it
breaks, at which nodes, and the cure. Exit code 1 where it breaks one.

examples:
  srptq lint model.onnx --target tensorrt
"""
RECIPES = """\
List the recipes that come with the package, or print one of them, or a file of
your own, in full; with --keys, every key that a recipe may have.

examples:
  srptq recipes
  srptq recipes openvino-w8a8
  srptq recipes --keys
"""
ABOUTS = {
    "quantize": QUANTIZE,
    "train": TRAIN,
    "evaluate": EVALUATE,
    "verify": VERIFY,
    "analyze": ANALYZE,
    "plot": PLOT,
    "cost": COST,
    "lint": LINT,
    "recipes": RECIPES,
}
"""By command; the others say what they do in one line."""
