"""Plays the scenarios of `native.py` with two libssl at once, in one process.

LIBSSL and LIBCRYPTO name the files of each, separated by a colon.
"""

import importlib.util
import os

FILES = list(zip(os.environ["LIBSSL"].split(":"), os.environ["LIBCRYPTO"].split(":")))


def load(libssl, libcrypto):
    os.environ.update(LIBSSL=libssl, LIBCRYPTO=libcrypto)
    path = os.path.join(os.path.dirname(__file__), "native.py")
    spec = importlib.util.spec_from_file_location("native", path)
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    return native


def main():
    natives = [load(*files) for files in FILES]
    performers = [native.perform for native in natives]

    def perform(words):
        answers = [perform(words) for perform in performers]
        contexts = [context for answer in answers for context in answer.get("contexts", [])]
        return {"contexts": contexts}

    natives[0].perform = perform
    natives[0].main()


if __name__ == "__main__":
    main()
