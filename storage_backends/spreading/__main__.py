"""Print what spreading activation runs on: python -m storage_backends.spreading."""

from storage_backends.spreading.dispatch import explained

if __name__ == "__main__":
    print(explained())
