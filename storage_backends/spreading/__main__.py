"""Print what spreading activation and seed lookup run on: python -m storage_backends.spreading."""

from storage_backends import lookup
from storage_backends.spreading.dispatch import explained

if __name__ == "__main__":
    print(explained())
    print(lookup.explained())
