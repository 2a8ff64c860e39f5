"""Serve an exported image classifier: a page to drop an image on, and POST /predict for programs.

python examples/serve.py photos.onnx [--port 8000]     needs fastapi, uvicorn, onnxruntime and pillow
curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/predict
"""

import argparse
import io
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime
import uvicorn
from fastapi import Body, FastAPI, HTTPException
from fastapi.responses import FileResponse
from PIL import Image, ImageOps

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("model", help="an exported .onnx that takes pixels (export.preprocess=inside)")
parser.add_argument("--port", type=int, default=8000)
args = parser.parse_args()
session = onnxruntime.InferenceSession(args.model)
about = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
if about.get("preprocess") != "inside":
    parser.error(f"{args.model} takes no pixels: export it with export.preprocess=inside")
app = FastAPI(title=about["backbone"])


def decode(path):  # upright, RGB, transparency on white: H x W x 3
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray(((np.asarray(image).astype(np.int32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


@app.get("/")
def page():
    return FileResponse(Path(__file__).with_name("serve.html"))


@app.post("/predict")
def predict(content: Annotated[bytes, Body(media_type="image/*")]):
    try:
        pixels = decode(io.BytesIO(content))
    except Exception as error:  # Pillow's decoders raise errors of many types.
        raise HTTPException(415, "this is no image that can be read") from error
    (logits,) = session.run(None, {"image": pixels[None]})
    shares = np.exp(logits[0] - logits[0].max())
    best = [(about["class_names"][i], float(shares[i] / shares.sum())) for i in shares.argsort()[::-1][:5]]
    return {"predictions": [{"class": name, "probability": share} for name, share in best]}


if __name__ == "__main__":
    uvicorn.run(app, port=args.port)
