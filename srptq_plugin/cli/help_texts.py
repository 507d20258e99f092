"""The texts of `--help` above the options: what each command does, with examples."""

ABOUT = "Post-training quantization of super-resolution networks."
EPILOG = """\
a first run, with the bundled network and sample photographs:
  srptq quantize
  srptq evaluate run --data Set5

exit codes:
  0  done
  1  a check failed: the runtime does not compute what was simulated
  2  an error in your input; the message says what and where
  3  an internal error; please report it with the output of -v
"""
QUANTIZE = """\
Quantize a network and write a run folder: the files for the target, the full
recipe, and a summary. Defaults to the bundled EDSR x4 as the network, and to
the sample photographs of scikit-image for calibration.

examples:
  srptq quantize --recipe onnxruntime-w8a8 --out run8
  srptq quantize --model edsr_x4.pth --images lr --out run
  srptq quantize --model mynet:build --model-args upscale=4 --weights net.pth
  srptq quantize --set activations.bits=6 calibration.patches=200
  srptq quantize --max-drop 0.1 --data Set5
"""
COST = """\
Count the cost of a network in float and quantized: multiplications, BitOPs,
bytes of the model, memory for feature maps, and the cost measures of the FQSR
and DAQ papers. Give a run folder, or a recipe and a network. Reads no images
unless they are given.

examples:
  srptq cost run
  srptq cost edsr --weights edsr_x4.pth --recipe paper-w4a4
  srptq cost mynet:build --input-size 1x3x339x510
"""
ANALYZE = """\
Measure how much each part of a network costs the image. A part is a stage, a
combination of stages, a block or a site (one quantized tensor). Each is
quantized alone, and left float while the rest is quantized. With --budget,
measure every tensor at several bit widths, and write the recipe that spends
the budget best.

examples:
  srptq analyze run
  srptq analyze edsr --weights edsr_x4.pth --recipe paper-w4a4 --by stage
  srptq analyze --recipe paper-w4a4 --budget bops=0.3 --recipe-out mixed.yaml
"""
PLOT = """\
Draw the results of `srptq analyze` as PNG files: heat maps of stages, blocks
and sites, and PSNR against cost for a budget. With --site, draw a histogram
of one tensor of a run, with its bounds at each step of calibration.

examples:
  srptq plot run
  srptq plot budget.json --out pictures
  srptq plot run --site body.0/add
"""
TRAIN = """\
Train a calibrated run, and write another run. Weights, biases and bounds learn
together, and the state with the best validation score is kept. With --scale,
the images are high-resolution and the network learns to restore them. Without
it, they are low-resolution and the network learns the float network's output.

examples:
  srptq train openvino-w8a8 --run run --images lr
  srptq train openvino-w8a8 --run run --images photographs --scale 4
  srptq train openvino-w8a8 --run run --images lr --out trained --resume
"""
EVALUATE = """\
Compute PSNR and SSIM on the Y channel for a run: of the float network, the
simulation, the file in its runtime, and bicubic upscaling.

examples:
  srptq evaluate run --data Set5
  srptq evaluate run --data Set5 --csv scores.csv
  srptq evaluate run --data photographs --tile 128 --overlap 32
"""
VERIFY = """\
Compare the simulation with the file in its runtime, on crops of four sizes:
how far they differ, how many convolutions run in integers, and the speed
compared with float. Exits with 1 if they differ.

examples:
  srptq verify run
  srptq verify run --images lr
"""
LINT = """\
Check any ONNX file, from any tool, against the rules of a target: which rules
it breaks, at which nodes, and how to fix them. Exits with 1 if it breaks one.

examples:
  srptq lint model.onnx --target tensorrt
"""
RECIPES = """\
List the recipes that come with the package, or print one of them, or a file of
your own, in full. With --keys, list every key that a recipe may have.

examples:
  srptq recipes
  srptq recipes openvino-w8a8
  srptq recipes --keys
"""
REPORT = """\
Write one HTML file about a run: crops with a slider between float, simulation
and runtime, maps of differences, scores by image, the plan and what stays
float, the worst activations, costs, and where simulation and runtime part.
Several runs share one page. It needs no network and no other file.

examples:
  srptq report run
  srptq report run --data Set5
  srptq report run8 run4 --data Set5 --out compared.html
"""
DOCTOR = """\
Print facts for a bug report: the processor, packages and their versions.
Then quantize a network of three convolutions for each target, run the files,
and tell which run in integers and whether they overflow without VNNI. Exits
with 1 if a runtime fails, or does not compute what was simulated.

examples:
  srptq doctor
  srptq doctor --target openvino onnxruntime
"""
COMPLETION = """\
Print a script by which a shell completes commands, options and files. Bash
looks for it in ~/.local/share/bash-completion/completions/srptq, zsh in _srptq
in a folder of its fpath.

examples:
  srptq completion bash
  srptq completion zsh
"""
