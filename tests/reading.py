"""Reads the files of a run as they are."""

import json


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))
