"""What tests load: image folders and published data sets."""

from tascnet.data.listing import choose_classes, list_images, list_texts
from tascnet.data.pixels import load_images
from tascnet.data.text import load_texts


def load_image_folder(root, preprocessing, *, cache, classes=None, **options):
    return load_images(choose_classes(list_images(root), classes), preprocessing, cache=cache, **options)


def load_published(published, root, preprocessing, *, cache, fetch=False, official_test=False, **options):
    listing = published.locate(root, cache, fetch=fetch)
    listing = listing if official_test else listing.without_parts()
    return load_images(listing, preprocessing, cache=cache, name=published.name, **options)


def load_lines(root, name="text_lines", max_tokens=64):
    return load_texts(list_texts(root), name=name, max_tokens=max_tokens)


def load_published_texts(published, root, *, cache=None, fetch=False):
    files = published.locate(root, cache, fetch=fetch)
    return load_texts(files, name=published.name, max_tokens=64)
