"""Tune and prune a pre-trained network on a folder of your own images, and save the result.

python examples/own_images.py photos [--backbone NAME] [--weights FILE] [--size 224] [--trials 24]
"""

import argparse

import tascnet

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", help="holds one folder of images for each class")
parser.add_argument("--backbone", default="mobilenet_v2")
parser.add_argument("--weights", default="pretrained", help="pretrained, random or a file")
parser.add_argument("--size", type=int, default=224, help="side of the images, in pixels")
parser.add_argument("--trials", type=int, default=24)
parser.add_argument("--classify", help="an image whose class is printed at the end")
parser.add_argument("--out", default="runs/own-images", help="folder that a later call resumes from")
args = parser.parse_args()

data = tascnet.image_folder(args.folder)
network = tascnet.backbone(args.backbone, weights=args.weights, size=args.size)
tuned = tascnet.tune(network, data, tascnet.Tune(max_trials=args.trials), run=f"{args.out}/tune")
small = tascnet.prune(tuned.network, data, tascnet.Prune(flops_target=0.5), run=f"{args.out}/prune")
print(tuned, small, sep="\n")
small.report(f"{args.out}/report.html")
tascnet.save(small.network, f"{args.out}/model")
if args.classify is not None:
    model = tascnet.load(f"{args.out}/model")
    scores = model(model.preprocessing(args.classify)[None])
    print(f"{args.classify}: {model.class_names[scores.argmax()]}")
